"""Every tensor a resume needs, by flat name: `model.*`, `ema.*` and `optimizer.<parameter>.<moment>`.

Names are bare, so wrapping a network or not, whole or sharded (DTensors pass through), makes no difference to
a checkpoint. The learning rate and other settings of the optimizer are not here: they follow from the
settings and the step.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from videomae2.engine import checkpoint, parallel
from videomae2.engine.average import Average


def gather(
    network: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> dict[str, Tensor]:
    """The tensors of a run, not copied."""
    tensors = _weights(network, average)
    for name, parameter in network.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{parallel.bare_name(name)}.{moment}"] = value
    return tensors


def fill(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> None:
    """Overwrite a run's tensors with those of a checkpoint.

    UserError if the checkpoint is of another architecture or damaged.
    """
    there = checkpoint.tensor_names(path)
    tensors = _weights(network, average)
    for name, parameter in network.named_parameters():
        prefix = f"optimizer.{parallel.bare_name(name)}."
        for key in (key for key in there if key.startswith(prefix)):
            # Moments are shaped, placed and sharded like their parameter; the step count is one number.
            count = key.endswith(".step")
            value = torch.zeros((), device=parameter.device) if count else torch.zeros_like(parameter)
            optimizer.state[parameter][key.removeprefix(prefix)] = tensors[key] = value
    checkpoint.load_tensors(path, tensors)


def export(network: nn.Module, average: Average | None) -> dict[str, dict[str, Tensor]]:
    """Whole tensors by bare name: "model", and "ema" where there is an average.

    Every process of a group calls this, for sharded tensors are gathered from all.
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
        # Buffers are not averaged; an averaged network has the trained one's.
        tensors |= {f"ema.{name}": value for name, value in (state | average.values).items()}
    return tensors
