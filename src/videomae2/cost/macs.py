"""Parameters, multiply-accumulates, steps and device-hours of a network, on paper. Its memory: `memory.py`.

Only matmuls are counted, as in the paper: no norms, no softmax, no biases.
"""

from dataclasses import dataclass

from videomae2.architecture import Architecture, TransformerConfig
from videomae2.errors import UserError
from videomae2.mask_counts import TokenCounts


@dataclass(frozen=True)
class Parts:
    """One number for each part of a network; the projection and the mask token belong to the decoder."""

    encoder: int
    decoder: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        """The sum over all parts."""
        return self.encoder + self.decoder + self.head


def count_parameters(architecture: Architecture) -> Parts:
    """Learned values, exactly; position tables are buffers unless they are learned.

    A classifier has no final norm in its encoder: it normalises after pooling, in its head.
    """
    encoder, decoder = architecture.encoder, architecture.decoder
    trunk = architecture.embed_parameters + encoder.depth * encoder.block_parameters
    if decoder is None:
        head = encoder.norm_parameters + architecture.output_matrix + architecture.num_classes
        return Parts(trunk, head=head)
    blocks = decoder.depth * decoder.block_parameters + decoder.norm_parameters
    mask_token = decoder.width
    output = architecture.output_matrix + architecture.grid.cube_values
    return Parts(
        trunk + encoder.norm_parameters, decoder=architecture.bridge_matrix + mask_token + blocks + output
    )


def published_macs(architecture: Architecture, counts: TokenCounts) -> Parts:
    """Multiply-accumulates of one clip's forward as the paper counts them: its "FLOPs" (tables 1 to 3).

    The released code embeds all tokens before it drops the hidden ones, runs every block in full and
    predicts every decoded token. With the membership `released` this gives the printed figures within 0.2 %.
    """
    encoder, decoder, grid = architecture.encoder, architecture.decoder, architecture.grid
    embedding = grid.num_tokens * architecture.embed_matrix
    trunk = embedding + encoder.depth * _block_macs(encoder, counts.visible)
    if decoder is None:
        return Parts(trunk, head=architecture.output_matrix)
    bridge = counts.visible * architecture.bridge_matrix
    blocks = decoder.depth * _block_macs(decoder, counts.visible + counts.decoded)
    return Parts(trunk, decoder=bridge + blocks + counts.decoded * architecture.output_matrix)


def computed_macs(architecture: Architecture, counts: TokenCounts) -> Parts:
    """Multiply-accumulates of one clip's forward as this package computes it.

    Only visible cubes are embedded. In the decoder's last block only scored tokens attend and pass the MLP,
    and only they are predicted.
    """
    encoder, decoder = architecture.encoder, architecture.decoder
    embedding = counts.visible * architecture.embed_matrix
    trunk = embedding + encoder.depth * _block_macs(encoder, counts.visible)
    if decoder is None:
        return Parts(trunk, head=architecture.output_matrix)
    bridge = counts.visible * architecture.bridge_matrix
    length = counts.visible + counts.decoded
    blocks = (decoder.depth - 1) * _block_macs(decoder, length) + _block_macs(decoder, length, counts.scored)
    return Parts(trunk, decoder=bridge + blocks + counts.scored * architecture.output_matrix)


def training_macs(architecture: Architecture, counts: TokenCounts) -> int:
    """Multiply-accumulates of one clip's forward and backward as computed here, without recomputation.

    A matmul has two gradients, each as dear as itself. The embedding needs only one of them: nobody asks for
    the gradient of pixels.
    """
    embedding = counts.visible * architecture.embed_matrix
    return 3 * computed_macs(architecture, counts).total - embedding


def recomputed_macs(architecture: Architecture, counts: TokenCounts) -> int:
    """What checkpointing adds to `training_macs`: blocks once more, or the first layers of their MLPs."""
    encoder, decoder = architecture.encoder, architecture.decoder
    total = encoder.depth * _recomputed_macs(encoder, counts.visible)
    if decoder is None:
        return total
    length = counts.visible + counts.decoded
    full = (decoder.depth - 1) * _recomputed_macs(decoder, length)
    return total + full + _recomputed_macs(decoder, length, counts.scored)


def _recomputed_macs(config: TransformerConfig, tokens: int, queries: int | None = None) -> int:
    block = _block_macs(config, tokens, queries)
    hidden = (tokens if queries is None else queries) * config.width * config.mlp_width
    return block * config.activation_checkpointing + hidden * config.mlp_checkpointing


def _block_macs(config: TransformerConfig, tokens: int, queries: int | None = None) -> int:
    """One block in which `queries` of the tokens (None: all) attend to all, pass the MLP and are returned."""
    width = config.width
    queries = tokens if queries is None else queries
    query_key_value = 3 * tokens * width**2  # one linear layer, of all tokens whoever attends
    attention = 2 * queries * tokens * width  # query times key, weights times value
    return query_key_value + attention + queries * (width**2 + 2 * width * config.mlp_width)


@dataclass(frozen=True)
class Workload:
    """How much a run computes: `views` clips of each of `videos`, `epochs` times.

    A process takes `batch` videos at a time. UserError for counts below 1.
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
    """Hours that one device works on `macs` multiply-accumulates, each of which counts as two FLOP.

    `tflops` is the peak that its data sheet promises, in 10^12 FLOP a second, `utilisation` the share of it
    that is reached.
    """
    require_positive("tflops", tflops)
    if not 0 < utilisation <= 1:
        raise UserError(
            f"utilisation: expected a share above 0 and up to 1, got {utilisation}; 0.4 is usual in training"
        )
    return 2 * macs / (tflops * 1e12 * utilisation) / 3600


def require_positive(name: str, value: int | float) -> None:
    """Refuse a count or a rate that is not above 0; not-a-number is refused too."""
    if not value > 0:
        kind = "rate" if name == "tflops" else "count"
        raise UserError(f"{name}: expected a {kind} above 0, got {value}")
