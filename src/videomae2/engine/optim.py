"""AdamW and its parameter groups: which parameters get weight decay, and layer-wise learning-rate decay."""

import re
from typing import Any

import torch
from torch import nn

from videomae2.engine.parallel import bare_name
from videomae2.errors import UserError
from videomae2.settings import OptimSettings

NO_DECAY = frozenset({"pos_embed", "cls_token", "mask_token", "positions"})
"""Name parts of position tables and learned tokens, which get no weight decay (paper 3.1, released)."""

FIRST_LAYER = frozenset({"patch_embed", "tokenizer", "pos_embed", "cls_token", "mask_token", "positions"})
"""Name parts of what comes before the first encoder block, in our names and in the released ones."""

# Blocks at the top level (a bare encoder) or inside an encoder. The decoder's blocks are deliberately not
# matched: they count as the head, at the full learning rate.
_ENCODER_BLOCK = re.compile(r"(?:^|(?:^|\.)(?:encoder|backbone)\.)blocks\.(\d+)\.")


def layer_number(name: str, depth: int) -> int:
    """Layer of a parameter for layer-wise learning-rate decay (paper 3.4, released).

    0 for what comes before the first block, l + 1 for encoder block l, depth + 1 for everything after.
    """
    name = bare_name(name)
    block = _ENCODER_BLOCK.search(name)
    if block:
        return int(block[1]) + 1
    return 0 if FIRST_LAYER.intersection(name.split(".")) else depth + 1


def layer_scale(name: str, layer_decay: float, depth: int) -> float:
    """Factor of a parameter's learning rate: layer_decay ** (depth + 1 - layer), so 1 for the head."""
    return layer_decay ** (depth + 1 - layer_number(name, depth))


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay applies to a parameter.

    It does not for 1-D parameters, biases, attention scales, position tables and learned tokens.
    """
    # Decay pulls towards 0. That suits matrices, but not offsets, norms and scales, whose neutral value is no
    # matter of size, and not tables or tokens that are added to the embedding.
    name = bare_name(name)
    return (
        parameter.ndim > 1
        and not name.endswith((".bias", ".scale"))
        and not NO_DECAY.intersection(name.split("."))
    )


def encoder_depth(module: nn.Module) -> int:
    """Number of encoder blocks, read from a module's parameter names."""
    blocks = (_ENCODER_BLOCK.search(bare_name(name)) for name, _ in module.named_parameters())
    return max((int(block[1]) + 1 for block in blocks if block), default=0)


def parameter_groups(
    module: nn.Module, weight_decay: float, layer_decay: float = 1.0, depth: int | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters grouped by (learning-rate scale, weight decay or not), in order of appearance.

    Each group holds `params`, their bare `names`, `weight_decay`, and `lr_scale`, the factor on the
    schedule's learning rate. `depth` is the encoder's number of blocks; None counts them. UserError where no
    parameter requires a gradient.
    """
    # One group for each pair, not one a parameter: the fused kernel takes a whole group at once.
    depth = encoder_depth(module) if depth is None else depth
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        scale, decayed = layer_scale(name, layer_decay, depth), decays(name, parameter)
        empty = {
            "params": [],
            "names": [],
            "weight_decay": weight_decay if decayed else 0.0,
            "lr_scale": scale,
        }
        group = groups.setdefault((scale, decayed), empty)
        group["params"].append(parameter)
        group["names"].append(bare_name(name))
    if not groups:
        raise UserError(
            "nothing to train: expected a parameter that requires a gradient, got none; unfreeze some"
        )
    return list(groups.values())


def build_optimizer(module: nn.Module, optim: OptimSettings) -> torch.optim.AdamW:
    """Fused AdamW over the parameter groups of `parameter_groups`, on CPU and CUDA."""
    # Fused for two reasons. One kernel updates all parameters instead of a dozen per tensor. And only the
    # fused form reads `found_inf`, a flag on the device that makes it skip the step, its step count included,
    # without the host waiting for the loss (`step.py`).
    groups = parameter_groups(module, optim.weight_decay, optim.layer_decay)
    return torch.optim.AdamW(groups, lr=optim.base_lr, betas=optim.betas, eps=optim.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set every group's learning rate: the schedule's value times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_scale"]
