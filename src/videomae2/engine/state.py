"""Every tensor a resume needs, by flat name: `model.*`, `ema.*` and `optimizer.<parameter>.<moment>`.

Names are bare, so wrapping a task or not, whole or sharded (DTensors pass through), makes no difference to a
checkpoint. The learning rate and other settings of the optimizer are not here: they follow from the settings
and the step.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from videomae2.engine import checkpoint
from videomae2.engine.parallel import bare_name


def gather(
    task: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel | None
) -> dict[str, Tensor]:
    """The tensors of a run, not copied."""
    tensors = _model("model", task) | (_model("ema", average.module) if average else {})
    for name, parameter in task.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{bare_name(name)}.{moment}"] = value
    return tensors


def fill(
    path: Path,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    state: dict[str, Any],
) -> None:
    """Overwrite a run's tensors with those of a checkpoint. UserError if it is of another architecture or
    damaged.
    """
    there = checkpoint.tensor_names(path)
    tensors = _model("model", task) | (_model("ema", average.module) if average else {})
    for name, parameter in task.named_parameters():
        prefix = f"optimizer.{bare_name(name)}."
        for key in (key for key in there if key.startswith(prefix)):
            # Moments are shaped, placed and sharded like their parameter; the step count is one number.
            count = key.endswith(".step")
            value = torch.zeros((), device=parameter.device) if count else torch.zeros_like(parameter)
            optimizer.state[parameter][key.removeprefix(prefix)] = tensors[key] = value
    checkpoint.load_tensors(path, tensors)
    if average is not None:
        average.n_averaged.fill_(state["averaged"])


def _model(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{bare_name(name)}": value.detach() for name, value in module.state_dict().items()}
