"""Bytes of one process's device memory that a training step or a forward takes, and their peak.

What each piece of the network saves for backward is in `activations.py`.
"""

from dataclasses import dataclass

from videomae2.architecture import Architecture
from videomae2.cost.activations import FLOAT, Execution, Stage, training_stages
from videomae2.mask_counts import TokenCounts


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


def training_memory(
    architecture: Architecture, counts: TokenCounts, execution: Execution, clip_bytes: int = 1
) -> Memory:
    """Bytes of one step of forward, backward and AdamW.

    `clip_bytes` is of one pixel value: 1 for uint8, 4 where clips were mixed.
    """
    stages = training_stages(architecture, counts, execution)
    total = sum(stage.parameters for stage in stages)
    parameters = FLOAT * -(-total // execution.share)
    communication = _communication(architecture, total, execution)
    clips, buffers = _clips(architecture, execution, clip_bytes), FLOAT * architecture.fixed_position_values
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
    size, width, tokens = execution.matmul_bytes, architecture.encoder.width, execution.clips * counts.visible
    linear = _linear_parameters(architecture)
    parameters = -(-(FLOAT * (total - linear) + size * linear) // execution.share)
    communication = _communication(architecture, total, execution) if execution.shard == "full" else 0
    mlp_width, values = architecture.encoder.mlp_width, architecture.grid.cube_values
    if execution.lean:
        attention = tokens * (FLOAT * width + 5 * size * width)
        mlp = tokens * ((2 * FLOAT + size) * width + size * mlp_width)
        embedding = tokens * (FLOAT + size) * values
    else:
        # The residual stream, its norm, and what a linear layer gives before and after its bias, or GELU.
        attention = tokens * (2 * FLOAT + 6 * size) * width
        mlp = tokens * (2 * FLOAT * width + 2 * size * mlp_width)
        embedding = tokens * (2 * FLOAT + 1) * values  # raw cubes, and each step of normalising them
    working = max(attention, mlp, embedding)
    clips, buffers = _clips(architecture, execution, clip_bytes), FLOAT * architecture.fixed_position_values
    peak = parameters + communication + buffers + clips + working
    return Memory(parameters, 0, 0, communication, buffers, clips, 0, 0, working, peak)


def _linear_parameters(architecture: Architecture) -> int:
    """How many parameters belong to linear layers, which bf16 inference keeps in bf16."""
    blocks = sum(
        config.depth * (config.block_matrices + 2 * config.width + config.mlp_width)
        for config in architecture.transformers
    )
    outputs = (
        architecture.grid.cube_values + architecture.decoder.width
        if architecture.decoder
        else architecture.num_classes
    )
    return blocks + architecture.bridge_matrix + architecture.output_matrix + outputs


def _highest_moment(stages: list[Stage], execution: Execution) -> tuple[int, int]:
    """Most bytes of activations, weight copies, gradients and temporaries at once; of temporaries then."""
    kept = sum(stage.activations + stage.weight_copies for stage in stages)
    standing = max(stage.wide for stage in stages) if execution.lean else 0
    # Autocast's cache holds every weight's copy until the forward ends; a checkpointed block's graph keeps
    # none.
    copied = execution.copies(sum(stage.parameters for stage in stages)) - sum(
        stage.weight_copies for stage in stages
    )
    moments = [(kept, standing + copied + stages[-1].working)]
    gradients = 0
    for stage in reversed(stages):
        gradients += FLOAT * -(-stage.parameters // execution.share)
        moments.append((kept + gradients, standing + stage.working))
        kept -= stage.activations + stage.weight_copies
    return max((held + working, working) for held, working in moments)


def _communication(architecture: Architecture, parameters: int, execution: Execution) -> int:
    """Bytes of DDP's buckets, as large as the gradients, or of what FSDP2 gathers.

    FSDP2 holds the block at work, the next one, and what is in no block.
    """
    if execution.processes == 1:
        return 0
    if execution.shard == "none":
        return FLOAT * parameters
    blocks = sum(config.depth * config.block_parameters for config in architecture.transformers)
    largest = max(config.block_parameters for config in architecture.transformers)
    return FLOAT * (2 * largest + parameters - blocks)


def _clips(architecture: Architecture, execution: Execution, clip_bytes: int) -> int:
    return execution.clips * architecture.grid.num_tokens * architecture.grid.cube_values * clip_bytes
