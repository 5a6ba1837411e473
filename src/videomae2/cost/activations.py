"""Bytes that each piece of a network saves for backward, and the temporaries that its backward needs.

The residual stream, the norms' inputs and the weights are float32; under bf16 autocast the inputs of matmuls
are bf16, and so is a copy of each weight that lives as long as the graph that needs it.
"""

from dataclasses import dataclass
from typing import NamedTuple

from videomae2.architecture import Architecture, TransformerConfig
from videomae2.errors import UserError
from videomae2.mask_counts import TokenCounts

EXPLICIT_UP_TO = 256
"""Keys up to which bf16 training attention on a CPU materialises its weights and saves them for backward:
recomputing so few would cost more than storing them (`models/cpu/attention.py`).
"""

FLOAT, INDEX = 4, 8
"""Bytes of a float32 and of an int64."""
_NORM = 2 * FLOAT  # mean and inverse standard deviation of a token


@dataclass(frozen=True)
class Execution:
    """How a process runs: clips of one forward, precision, device and sharding.

    What is recomputed in the backward pass stands in the architecture. `shard`: none keeps everything on each
    process (DDP); full spreads parameters, gradients and optimizer (FSDP2, block by block). UserError for
    choices and counts that cannot be.
    """

    clips: int
    precision: str = "bf16"
    device: str = "cuda"
    processes: int = 1
    shard: str = "none"

    def __post_init__(self) -> None:
        choices = {"precision": ("fp32", "bf16"), "device": ("cpu", "cuda"), "shard": ("none", "full")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}: expected {' or '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("clips", "processes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def matmul_bytes(self) -> int:
        """Bytes of a value that enters a matmul."""
        return 2 if self.precision == "bf16" else FLOAT

    @property
    def share(self) -> int:
        """Over how many processes parameters, gradients and optimizer state are spread."""
        return self.processes if self.shard == "full" else 1

    @property
    def lean(self) -> bool:
        """Whether blocks save only what no elementwise pass can recompute (`models/cpu/recompute.py`)."""
        return self.device == "cpu"

    def saves_attention_weights(self, keys: int) -> bool:
        """Whether training attention over so many keys saves its matrix of weights."""
        return self.device == "cpu" and self.precision == "bf16" and keys <= EXPLICIT_UP_TO

    def copies(self, entries: int) -> int:
        """Bytes of weights that autocast copies to bf16."""
        return 2 * entries if self.precision == "bf16" else 0


class Stage(NamedTuple):
    """One piece of the network in forward order: bytes saved of it, and bytes its backward adds and frees."""

    activations: int
    weight_copies: int
    working: int
    parameters: int
    """How many, not bytes."""
    wide: int = 0
    """Of the hidden values of its MLP after GELU, and of those recomputed: a CPU keeps one buffer for all
    blocks (`models/cpu/recompute.py`).
    """


def training_stages(architecture: Architecture, counts: TokenCounts, execution: Execution) -> list[Stage]:
    """The network in forward order.

    Pre-training: embedding, encoder blocks, projection, decoder blocks, output; else embedding, blocks, head.
    """
    encoder, decoder = architecture.encoder, architecture.decoder
    embedded = execution.clips * counts.visible * execution.matmul_bytes * architecture.grid.cube_values
    embed = Stage(embedded, 0, 0, architecture.embed_parameters)
    blocks = [_block(encoder, counts.visible, None, execution)] * encoder.depth
    if decoder is None:
        return [embed, *blocks, _head(architecture, execution)]
    length = counts.visible + counts.decoded
    full = [_block(decoder, length, None, execution)] * (decoder.depth - 1)
    last = _block(decoder, length, counts.scored, execution)
    bridge = _bridge(architecture, execution.clips * counts.visible, execution)
    output = _output(architecture, execution.clips * counts.scored, execution)
    return [embed, *blocks, bridge, *full, last, output]


def _head(architecture: Architecture, execution: Execution) -> Stage:
    """fc_norm and classification head, of one pooled token a clip; logits and their softmax for the loss."""
    encoder, classes = architecture.encoder, architecture.num_classes
    saved = (FLOAT + execution.matmul_bytes) * encoder.width + _NORM + 2 * FLOAT * classes
    parameters = encoder.norm_parameters + architecture.output_matrix + classes
    return Stage(execution.clips * saved, execution.copies(architecture.output_matrix), 0, parameters)


def _bridge(architecture: Architecture, tokens: int, execution: Execution) -> Stage:
    """The encoder's final norm and the projection to the decoder; the mask token is counted with it."""
    width, mask_token = architecture.encoder.width, architecture.transformers[-1].width
    return Stage(
        tokens * ((FLOAT + execution.matmul_bytes) * width + _NORM),
        execution.copies(architecture.bridge_matrix),
        tokens * 2 * FLOAT * width,
        architecture.encoder.norm_parameters + architecture.bridge_matrix + mask_token,
    )


def _output(architecture: Architecture, tokens: int, execution: Execution) -> Stage:
    """The decoder's norm, its output layer, and the loss over the scored tokens."""
    decoder, values = architecture.transformers[-1], architecture.grid.cube_values
    zero = FLOAT  # the loss adds to it
    return Stage(
        tokens * ((FLOAT + execution.matmul_bytes) * decoder.width + _NORM + FLOAT * values) + zero,
        execution.copies(architecture.output_matrix),
        tokens * 3 * FLOAT * values,  # in the forward: prediction, target and the squares that are summed
        decoder.norm_parameters + architecture.output_matrix + values,
    )


def _block(config: TransformerConfig, tokens: int, chosen: int | None, execution: Execution) -> Stage:
    """One block; with `chosen`, only so many of its tokens attend, pass the MLP and are returned."""
    clips, size = execution.clips, execution.matmul_bytes
    queries = tokens if chosen is None else chosen
    saved = clips * _saved_by_block(config, tokens, chosen, execution)
    copies = execution.copies(_saved_matrices(config, execution))
    # Hidden values after GELU and then their gradient are in one place.
    wide = clips * queries * size * config.mlp_width * (2 if config.mlp_checkpointing else 1)
    mlp = clips * queries * (size + 3 * FLOAT) * config.width + (0 if execution.lean else wide)
    weights = 2 * size * config.num_heads * queries * tokens * execution.saves_attention_weights(tokens)
    attention = clips * (tokens * (5 * size + 2 * FLOAT) * config.width + weights)
    working = max(mlp, attention)
    if not config.activation_checkpointing:
        return Stage(saved, copies, working, config.block_parameters, wide)
    # Only the input and the choice of tokens are saved; the backward holds the block's own graph for a while.
    index = 0 if chosen is None else INDEX * chosen
    entering = clips * (FLOAT * tokens * config.width + index)
    return Stage(entering, 0, saved - entering + copies + working, config.block_parameters, wide)


def _saved_matrices(config: TransformerConfig, execution: Execution) -> int:
    """Entries of one block's matrices whose copies its graph keeps: a checkpointed MLP casts its own anew."""
    recast = config.mlp_checkpointing and not execution.lean
    return config.block_matrices - (2 * config.width * config.mlp_width if recast else 0)


def _saved_by_block(config: TransformerConfig, tokens: int, chosen: int | None, execution: Execution) -> int:
    """Bytes of one clip that one block saves for backward."""
    size, width = execution.matmul_bytes, config.width
    queries = tokens if chosen is None else chosen
    stream = (tokens + queries) * FLOAT * width  # the inputs of both norms
    attention = queries * _saved_by_attention(config, tokens, execution)
    if execution.lean:
        # Taking some tokens keeps their index and, for a norm of their own, a copy.
        taken = 0 if chosen is None else queries * (INDEX + FLOAT * width)
        query_key_value = size * width * (queries + 2 * tokens)
        hidden = 0 if config.mlp_checkpointing else queries * size * config.mlp_width
        return stream + taken + query_key_value + attention + hidden
    # Queries of all tokens lie beside their keys and values; those of some tokens are a copy.
    taken = 0 if chosen is None else queries * (INDEX + size * width)
    query_key_value = size * width * 3 * tokens
    normed = (tokens + queries) * (_NORM + size * width)
    if config.mlp_checkpointing:
        hidden = queries * (FLOAT - size) * width  # the MLP's input is kept as it came, before it is cast
    else:
        hidden = 2 * queries * size * config.mlp_width
    return stream + normed + taken + query_key_value + attention + hidden


def _saved_by_attention(config: TransformerConfig, keys: int, execution: Execution) -> int:
    """Bytes for each query: what the projection reads, and the weights or the logarithm of their sum."""
    if execution.saves_attention_weights(keys):
        scores = execution.matmul_bytes * keys
    else:
        # Our bf16 attention on a CPU recomputes from queries and keys alone.
        scores = 0 if execution.device == "cpu" and execution.precision == "bf16" else FLOAT
    return config.num_heads * scores + execution.matmul_bytes * config.width
