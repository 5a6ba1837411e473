"""What a network costs, on paper, before a machine is rented: parameters, multiply-accumulates, steps,
device-hours.

What it needs of memory is in `memory.py`.
"""

from dataclasses import dataclass

from videomae2.dimensions import Network, Tower
from videomae2.errors import UserError
from videomae2.mask_counts import TokenCounts


@dataclass(frozen=True)
class Parts:
    """One number for each part of a network. The projection and the mask token belong to the decoder."""

    encoder: int
    decoder: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        """All parts."""
        return self.encoder + self.decoder + self.head


def count_parameters(network: Network) -> Parts:
    """Learned values, exactly: fixed position tables are buffers. The classifier normalises after pooling, in
    its head.
    """
    grid, encoder, decoder = network.grid, network.encoder, network.decoder
    trunk = network.embed_matrix + encoder.width + encoder.depth * encoder.block_parameters
    if decoder is None:
        return Parts(trunk, head=encoder.norm_parameters + network.output_matrix + network.num_classes)
    blocks = decoder.depth * decoder.block_parameters + decoder.norm_parameters
    outside = network.bridge_matrix + decoder.width + network.output_matrix + grid.cube_values
    return Parts(trunk + encoder.norm_parameters, decoder=blocks + outside)


def published_macs(network: Network, counts: TokenCounts) -> Parts:
    """Multiply-accumulates of one clip's forward as the paper counts them (its "FLOPs"; tables 1 to 3).

    Matrix products only; the released code embeds all tokens before it drops the hidden ones, runs every
    block in full and predicts every decoded token. With the membership `released` this gives the printed
    figures within 0.2 %.
    """
    encoder, decoder, grid = network.encoder, network.decoder, network.grid
    trunk = grid.num_tokens * network.embed_matrix + encoder.depth * _block_macs(encoder, counts.visible)
    if decoder is None:
        return Parts(trunk, head=network.output_matrix)
    blocks = decoder.depth * _block_macs(decoder, counts.visible + counts.decoded)
    return Parts(
        trunk,
        decoder=counts.visible * network.bridge_matrix + blocks + counts.decoded * network.output_matrix,
    )


def computed_macs(network: Network, counts: TokenCounts) -> Parts:
    """Multiply-accumulates of one clip's forward as this package computes it, matrix products only.

    Only visible cubes are embedded; the decoder's last block asks, and the output layer predicts, for scored
    tokens only.
    """
    encoder, decoder = network.encoder, network.decoder
    trunk = counts.visible * network.embed_matrix + encoder.depth * _block_macs(encoder, counts.visible)
    if decoder is None:
        return Parts(trunk, head=network.output_matrix)
    length = counts.visible + counts.decoded
    blocks = (decoder.depth - 1) * _block_macs(decoder, length) + _block_macs(decoder, length, counts.scored)
    return Parts(
        trunk, decoder=counts.visible * network.bridge_matrix + blocks + counts.scored * network.output_matrix
    )


def training_macs(
    network: Network, counts: TokenCounts, checkpointing: bool = False, mlp_checkpointing: bool = False
) -> int:
    """Multiply-accumulates of one clip's forward and backward as computed here.

    A gradient costs two products for each of the forward's, one for the embedding: pixels need none.
    Activation checkpointing runs the blocks forward once more, that of MLPs their first layer.
    """
    forward = computed_macs(network, counts).total
    embedding = counts.visible * network.embed_matrix
    output = (counts.scored if network.decoder else 1) * network.output_matrix
    blocks = forward - embedding - counts.visible * network.bridge_matrix - output
    again = blocks * checkpointing + _hidden_macs(network, counts) * mlp_checkpointing
    return 3 * forward - embedding + again


def _hidden_macs(network: Network, counts: TokenCounts) -> int:
    """Of the first layers of all MLPs."""
    encoder, decoder = network.encoder, network.decoder
    trunk = encoder.depth * counts.visible * encoder.width * encoder.mlp_width
    if decoder is None:
        return trunk
    tokens = (decoder.depth - 1) * (counts.visible + counts.decoded) + counts.scored
    return trunk + tokens * decoder.width * decoder.mlp_width


@dataclass(frozen=True)
class Workload:
    """How much is to be computed: `views` clips of each of `videos`, `epochs` times, in batches of `batch`
    videos a process.
    """

    videos: int
    epochs: int
    views: int
    batch: int
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("videos", "epochs", "views", "batch", "processes"):
            require_positive(name, getattr(self, name))

    @property
    def clips_per_forward(self) -> int:
        """Clips that one process sends through the network at once."""
        return self.batch * self.views

    def training_steps(self) -> int:
        """Optimizer steps; an epoch is the whole batches that the videos fill, one at least."""
        return self.epochs * max(1, self.videos // (self.batch * self.processes))

    def inference_steps(self) -> int:
        """Forwards of each process; every video is seen, the last batch may be short."""
        return self.epochs * -(-self.videos // (self.batch * self.processes))

    def training_clips(self) -> int:
        """Clips of all steps and processes."""
        return self.training_steps() * self.clips_per_forward * self.processes

    def inference_clips(self) -> int:
        """Clips of all videos."""
        return self.epochs * self.videos * self.views


def device_hours(macs: int, tflops: int | float, utilisation: int | float) -> float:
    """Hours of one device whose data sheet promises `tflops` (a multiply-accumulate is two) and that reaches
    this share.
    """
    require_positive("tflops", tflops)
    if not 0 < utilisation <= 1:
        raise UserError(
            f"utilisation is {utilisation}, but a share above 0 and up to 1 was expected; 0.4 is usual in "
            "training"
        )
    return 2 * macs / (tflops * 1e12 * utilisation) / 3600


def require_positive(name: str, value: int | float) -> None:
    """Refuse what cannot be counted."""
    if not value > 0:
        raise UserError(
            f"{name} is {value}, but {'a rate' if name == 'tflops' else 'a count'} above 0 was expected"
        )


def _block_macs(tower: Tower, tokens: int, queries: int | None = None) -> int:
    """One block in which `queries` of the tokens (None: all) ask, attend, pass the MLP and are returned."""
    width = tower.width
    queries = tokens if queries is None else queries
    key_value = 2 * tokens * width**2
    attention = 2 * queries * tokens * width
    return key_value + attention + queries * (2 * width**2 + 2 * width * tower.mlp_width)
