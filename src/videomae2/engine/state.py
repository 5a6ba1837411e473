"""Every tensor that a resume needs, by flat name: `model.*`, `ema.*` and `optimizer.<parameter>.<moment>`.

Names are bare and DTensors pass through, so a checkpoint can be read under another wrapper or world size than
wrote it. The optimizer's hyperparameters are not saved: they follow from the settings and the step.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from videomae2.engine import checkpoint, parallel
from videomae2.engine.average import Average


def gather(
    network: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> dict[str, Tensor]:
    """The tensors of a run by flat name: the tensors themselves, no copies."""
    tensors = _weights(network, average)
    # By parameter name rather than by the optimizer's own numbering, which changes with the parameter groups.
    for name, parameter in network.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{parallel.bare_name(name)}.{moment}"] = value
    return tensors


def fill(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> None:
    """Overwrite a run's tensors, in place, with those of a checkpoint.

    UserError if the checkpoint is of another architecture or damaged.
    """
    # A fresh optimizer has no moments yet, and torch loads only into tensors that exist: they are created
    # here, for the names that the checkpoint has.
    there = checkpoint.tensor_names(path)
    tensors = _weights(network, average)
    for name, parameter in network.named_parameters():
        prefix = f"optimizer.{parallel.bare_name(name)}."
        for key in (key for key in there if key.startswith(prefix)):
            # Moments have the shape, device and sharding of their parameter; the step count is one number,
            # on the device because the fused kernels read it there.
            count = key.endswith(".step")
            value = torch.zeros((), device=parameter.device) if count else torch.zeros_like(parameter)
            optimizer.state[parameter][key.removeprefix(prefix)] = tensors[key] = value
    checkpoint.load_tensors(path, tensors)


def export(network: nn.Module, average: Average | None) -> dict[str, dict[str, Tensor]]:
    """Whole tensors by bare name: those of "model", and of "ema" where there is an average.

    Collective: every rank calls it, since sharded tensors are all-gathered.
    """
    weights: dict[str, dict[str, Tensor]] = {}
    for name, value in _weights(network, average).items():
        part, _, bare = name.partition(".")
        weights.setdefault(part, {})[bare] = parallel.whole(value)
    return weights


def _weights(network: nn.Module, average: Average | None) -> dict[str, Tensor]:
    state = {parallel.bare_name(name): value.detach() for name, value in network.state_dict().items()}
    tensors = {f"model.{name}": value for name, value in state.items()}
    if average is not None:
        # Buffers are not averaged, so the averaged state dict takes those of the trained network.
        tensors |= {f"ema.{name}": value for name, value in (state | average.values).items()}
    return tensors
