"""AdamW over the released parameter groups: which parameters decay, and how the learning rate falls with
depth.
"""

import re
from typing import Any

import torch
from torch import nn

from videomae2.engine.parallel import bare_name
from videomae2.errors import UserError
from videomae2.settings import OptimSettings

NO_DECAY = frozenset({"pos_embed", "cls_token", "mask_token", "positions"})
"""Name parts of tables and tokens that never decay, next to 1-D parameters, biases and `.scale` (paper 3.1,
released).
"""

FIRST_LAYER = frozenset({"patch_embed", "tokenizer", "pos_embed", "cls_token", "mask_token", "positions"})
"""Name parts that sit below the first block: ours and the released ones."""

_ENCODER_BLOCK = re.compile(r"(?:^|(?:^|\.)(?:encoder|backbone)\.)blocks\.(\d+)\.")


def layer_number(name: str, depth: int) -> int:
    """0 for what feeds the first block, l + 1 for encoder block l, depth + 1 for the rest (paper 3.4,
    released).
    """
    name = bare_name(name)
    block = _ENCODER_BLOCK.search(name)
    if block:
        return int(block[1]) + 1
    return 0 if FIRST_LAYER.intersection(name.split(".")) else depth + 1


def layer_scale(name: str, layer_decay: float, depth: int) -> float:
    """What the learning rate of a parameter is multiplied by: decay ** (depth + 1 - layer)."""
    return layer_decay ** (depth + 1 - layer_number(name, depth))


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay applies: not to 1-D parameters, biases, attention scales, position tables and
    tokens.
    """
    name = bare_name(name)
    return (
        parameter.ndim > 1
        and not name.endswith((".bias", ".scale"))
        and not NO_DECAY.intersection(name.split("."))
    )


def encoder_depth(module: nn.Module) -> int:
    """How many encoder blocks a module's parameter names show."""
    blocks = (_ENCODER_BLOCK.search(bare_name(name)) for name, _ in module.named_parameters())
    return max((int(block[1]) + 1 for block in blocks if block), default=0)


def parameter_groups(
    module: nn.Module, weight_decay: float, layer_decay: float = 1.0, depth: int | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters by (learning-rate scale, decay or not), in the order of first appearance.

    Each group holds `params`, their bare `names`, `weight_decay` and `lr_scale`, by which the loop multiplies
    the schedule's learning rate. `depth` is the encoder's number of blocks; None counts them.
    """
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
        raise UserError("nothing to train: no parameter of the model requires a gradient; unfreeze some")
    return list(groups.values())


def build_optimizer(module: nn.Module, optim: OptimSettings) -> torch.optim.AdamW:
    """AdamW in its fused form, on CPU and CUDA: one kernel a device, and it skips a step on a flag kept on
    the device.
    """
    groups = parameter_groups(module, optim.weight_decay, optim.layer_decay)
    return torch.optim.AdamW(groups, lr=optim.base_lr, betas=optim.betas, eps=optim.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every group its share of the schedule's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_scale"]
