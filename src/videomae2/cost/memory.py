"""Bytes of a device's memory that a training step or a forward takes, from the tensors saved for backward.

Counted for one process. The residual stream, the norms' inputs and the weights are float32; under bf16
autocast the inputs of matmuls are bf16, and so is a copy of each weight that lives as long as the graph that
needs it.
"""

from dataclasses import dataclass
from typing import NamedTuple

from videomae2.architecture import Architecture, TransformerConfig
from videomae2.errors import UserError
from videomae2.mask_counts import TokenCounts

EXPLICIT_UP_TO = 256
"""Keys up to which bf16 training attention on a CPU materialises its scores and saves them for backward:
recomputing so few would cost more than storing them.
"""

APART_FROM = 512
"""Keys from which fp32 inference on a CPU copies queries, keys and values into contiguous memory."""

_FLOAT, _INDEX = 4, 8
_NORM = 2 * _FLOAT  # mean and inverse standard deviation of a token


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
    def product_bytes(self) -> int:
        """Bytes of a value that enters a matmul."""
        return 2 if self.precision == "bf16" else _FLOAT

    @property
    def share(self) -> int:
        """Over how many processes parameters, gradients and optimizer state are spread."""
        return self.processes if self.shard == "full" else 1

    @property
    def lean(self) -> bool:
        """Whether blocks save only what no elementwise pass can recompute (`models/cpu/recompute.py`)."""
        return self.device == "cpu"

    def writes_scores(self, keys: int) -> bool:
        """Whether training attention saves its matrix of scores for backward."""
        return self.device == "cpu" and self.precision == "bf16" and keys <= EXPLICIT_UP_TO


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. The peak is below their sum: gradients come while activations go."""

    parameters: int
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    communication: int
    """Copies that sharding gathers, or the buckets in which DDP averages gradients."""
    buffers: int
    """Position tables."""
    clips: int
    activations: int
    """What is saved for backward."""
    weight_copies: int
    """bf16 weights that are saved for backward."""
    working: int
    """Temporaries at the peak: gradients of activations, recomputed blocks, a forward's own tensors."""
    peak: int

    @property
    def state(self) -> int:
        """What lives from step to step, gradients counted."""
        return self.parameters + self.gradients + self.optimizer + self.communication + self.buffers


class Stage(NamedTuple):
    """One piece of the network in forward order: bytes saved of it, and bytes its backward adds and frees."""

    activations: int
    weight_copies: int
    working: int
    parameters: int
    """How many, not bytes."""
    wide: int = 0
    """Of the hidden values of its MLP after GELU, and of those recomputed: a CPU keeps their place
    (`models/cpu/scratch.py`).
    """


def training_memory(
    architecture: Architecture, counts: TokenCounts, execution: Execution, clip_bytes: int = 1
) -> Memory:
    """Bytes of one step of forward, backward and AdamW.

    `clip_bytes` is of one pixel value: 1 for uint8, 4 where clips were mixed.
    """
    stages = training_stages(architecture, counts, execution)
    total = sum(stage.parameters for stage in stages)
    parameters = _FLOAT * -(-total // execution.share)
    communication = _communication(architecture, total, execution)
    clips, buffers = _clips(architecture, execution, clip_bytes), _FLOAT * architecture.fixed_position_values
    most, working = _highest_moment(stages, execution)
    return Memory(
        parameters=parameters,
        gradients=parameters,
        optimizer=2 * parameters,
        communication=communication,
        buffers=buffers,
        clips=clips,
        activations=sum(stage.activations for stage in stages),
        weight_copies=sum(stage.weight_copies for stage in stages),
        working=working,
        peak=3 * parameters + communication + buffers + clips + most,
    )


def inference_memory(
    architecture: Architecture, counts: TokenCounts, execution: Execution, clip_bytes: int = 1
) -> Memory:
    """Bytes of a forward without gradients, after `for_inference`.

    Nothing is saved; the widest moment of a block is the peak.
    """
    total = sum(stage.parameters for stage in training_stages(architecture, counts, execution))
    size, width, tokens = (
        execution.product_bytes,
        architecture.encoder.width,
        execution.clips * counts.visible,
    )
    linear = _linear_parameters(architecture)
    parameters = -(-(_FLOAT * (total - linear) + size * linear) // execution.share)
    communication = _communication(architecture, total, execution) if execution.shard == "full" else 0
    mlp_width, values = architecture.encoder.mlp_width, architecture.grid.cube_values
    if execution.lean:
        # A CPU keeps a place for queries, keys and values of long fp32 attention (`models/cpu/attention.py`).
        apart = size == _FLOAT and counts.visible >= APART_FROM
        standing = 3 * tokens * size * width if apart else 0
        attention = standing + tokens * (_FLOAT * width + 5 * size * width)
        mlp = standing + tokens * ((2 * _FLOAT + size) * width + size * mlp_width)
        embedding = tokens * (_FLOAT + size) * values
    else:
        # The residual stream, its norm, and what a linear layer gives before and after its bias, or GELU.
        attention = tokens * (2 * _FLOAT + 6 * size) * width
        mlp = tokens * (2 * _FLOAT * width + 2 * size * mlp_width)
        embedding = tokens * (2 * _FLOAT + 1) * values  # raw cubes, and each step of normalising them
    working = max(attention, mlp, embedding)
    clips, buffers = _clips(architecture, execution, clip_bytes), _FLOAT * architecture.fixed_position_values
    peak = parameters + communication + buffers + clips + working
    return Memory(parameters, 0, 0, communication, buffers, clips, 0, 0, working, peak)


def _linear_parameters(architecture: Architecture) -> int:
    """How many parameters belong to linear layers, which bf16 inference keeps in bf16."""
    towers = architecture.transformers
    blocks = sum(tower.depth * (tower.block_matrices + 2 * tower.width + tower.mlp_width) for tower in towers)
    outputs = (
        architecture.grid.cube_values + architecture.decoder.width
        if architecture.decoder
        else architecture.num_classes
    )
    return blocks + architecture.bridge_matrix + architecture.output_matrix + outputs


def training_stages(architecture: Architecture, counts: TokenCounts, execution: Execution) -> list[Stage]:
    """The network in forward order.

    Pre-training: embedding, encoder blocks, projection, decoder blocks, output; else embedding, blocks, head.
    """
    encoder, decoder, size, clips = (
        architecture.encoder,
        architecture.decoder,
        execution.product_bytes,
        execution.clips,
    )
    values = architecture.grid.cube_values
    embed = Stage(clips * counts.visible * size * values, 0, 0, architecture.embed_parameters)
    blocks = [_block(encoder, counts.visible, None, execution)] * encoder.depth
    if decoder is None:
        classes = 2 * _FLOAT * architecture.num_classes
        kept = clips * ((_FLOAT + size) * encoder.width + _NORM + classes)
        parameters = encoder.norm_parameters + architecture.output_matrix + architecture.num_classes
        return [embed, *blocks, Stage(kept, _copies(architecture.output_matrix, execution), 0, parameters)]
    bridge = Stage(
        clips * counts.visible * ((_FLOAT + size) * encoder.width + _NORM),
        _copies(architecture.bridge_matrix, execution),
        clips * counts.visible * 2 * _FLOAT * encoder.width,
        encoder.norm_parameters + architecture.bridge_matrix + decoder.width,
    )
    length = counts.visible + counts.decoded
    full = [_block(decoder, length, None, execution)] * (decoder.depth - 1)
    last = _block(decoder, length, counts.scored, execution)
    output = Stage(
        clips * counts.scored * ((_FLOAT + size) * decoder.width + _NORM + _FLOAT * values)
        + _FLOAT,  # the loss's zero
        _copies(architecture.output_matrix, execution),
        clips
        * counts.scored
        * 3
        * _FLOAT
        * values,  # in the forward: prediction, target and the squares that are summed
        decoder.norm_parameters + architecture.output_matrix + values,
    )
    return [embed, *blocks, bridge, *full, last, output]


def _highest_moment(stages: list[Stage], execution: Execution) -> tuple[int, int]:
    """Most bytes of activations, weight copies, gradients and temporaries at once; of temporaries then."""
    kept = sum(stage.activations + stage.weight_copies for stage in stages)
    standing = max(stage.wide for stage in stages) if execution.device == "cpu" else 0
    # Autocast's cache holds every weight's copy until the forward ends; a checkpointed block's graph keeps
    # none.
    copied = _copies(sum(stage.parameters for stage in stages), execution) - sum(
        stage.weight_copies for stage in stages
    )
    moments = [(kept, standing + copied + stages[-1].working)]
    gradients = 0
    for stage in reversed(stages):
        gradients += _FLOAT * -(-stage.parameters // execution.share)
        moments.append((kept + gradients, standing + stage.working))
        kept -= stage.activations + stage.weight_copies
    return max((held + working, working) for held, working in moments)


def _block(tower: TransformerConfig, tokens: int, queries: int | None, execution: Execution) -> Stage:
    """One block; with `queries`, only so many of its tokens attend, pass the MLP and are returned."""
    kept, copies = (
        execution.clips * _kept_by_block(tower, tokens, queries, execution),
        _copies(_matrices_kept(tower, execution), execution),
    )
    asking = tokens if queries is None else queries
    size = execution.product_bytes
    # Hidden values after GELU and then their gradient are in one place.
    wide = execution.clips * asking * size * tower.mlp_width * (2 if tower.mlp_checkpointing else 1)
    mlp = execution.clips * asking * (size + 3 * _FLOAT) * tower.width + (
        0 if execution.device == "cpu" else wide
    )
    scores = 2 * size * tower.num_heads * asking * tokens * execution.writes_scores(tokens)
    attention = execution.clips * (tokens * (5 * size + 2 * _FLOAT) * tower.width + scores)
    working = max(mlp, attention)
    if not tower.activation_checkpointing:
        return Stage(kept, copies, working, tower.block_parameters, wide)
    index = 0 if queries is None else _INDEX * queries
    entering = execution.clips * (_FLOAT * tokens * tower.width + index)
    return Stage(entering, 0, kept - entering + copies + working, tower.block_parameters, wide)


def _matrices_kept(tower: TransformerConfig, execution: Execution) -> int:
    """Entries of one block's matrices whose copies its graph keeps: a checkpointed MLP casts its own anew."""
    recast = tower.mlp_checkpointing and not execution.lean
    return tower.block_matrices - (2 * tower.width * tower.mlp_width if recast else 0)


def _kept_by_block(tower: TransformerConfig, tokens: int, queries: int | None, execution: Execution) -> int:
    """Bytes of one clip that one block saves for backward."""
    size, width = execution.product_bytes, tower.width
    asking = tokens if queries is None else queries
    stream = (tokens + asking) * _FLOAT * width  # the inputs of both norms
    attention = asking * _kept_of_attention(tower, tokens, execution)
    if execution.lean:
        # Taking some tokens keeps their index and, for a norm of their own, a copy.
        taken = 0 if queries is None else asking * (_INDEX + _FLOAT * width)
        query_key_value = size * width * (asking + 2 * tokens)
        hidden = 0 if tower.mlp_checkpointing else asking * size * tower.mlp_width
        return stream + taken + query_key_value + attention + hidden
    # Queries of all tokens lie beside their keys and values; those of some tokens are a copy.
    taken = 0 if queries is None else asking * (_INDEX + size * width)
    query_key_value = size * width * 3 * tokens
    normed = (tokens + asking) * (_NORM + size * width)
    if tower.mlp_checkpointing:
        hidden = asking * (_FLOAT - size) * width  # the MLP's input is kept as it came, before it is cast
    else:
        hidden = 2 * asking * size * tower.mlp_width
    return stream + normed + taken + query_key_value + attention + hidden


def _kept_of_attention(tower: TransformerConfig, keys: int, execution: Execution) -> int:
    """Bytes for each query: what the projection reads, and scores, the logarithm of their sum, or neither."""
    if execution.writes_scores(keys):
        scores = execution.product_bytes * keys
    else:
        scores = 0 if execution.device == "cpu" and execution.precision == "bf16" else _FLOAT
    return tower.num_heads * scores + execution.product_bytes * tower.width


def _copies(entries: int, execution: Execution) -> int:
    """Bytes of weights that autocast copies to bf16."""
    return 2 * entries if execution.precision == "bf16" else 0


def _communication(architecture: Architecture, parameters: int, execution: Execution) -> int:
    """Bytes of DDP's buckets, as large as the gradients, or of what FSDP2 gathers.

    FSDP2 holds the block at work, the next one, and what is in no block.
    """
    if execution.processes == 1:
        return 0
    if execution.shard == "none":
        return _FLOAT * parameters
    towers = architecture.transformers
    blocks = sum(tower.depth * tower.block_parameters for tower in towers)
    return _FLOAT * (2 * max(tower.block_parameters for tower in towers) + parameters - blocks)


def _clips(architecture: Architecture, execution: Execution, clip_bytes: int) -> int:
    return execution.clips * architecture.grid.num_tokens * architecture.grid.cube_values * clip_bytes
