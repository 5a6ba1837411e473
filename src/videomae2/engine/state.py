"""Every tensor of a run by flat name, `model.*`, `ema.*`, `optimizer.<parameter>.<moment>`; and the average.

Names are bare and DTensors pass through, so a checkpoint can be read under another wrapper or world size than
wrote it. The optimizer's hyperparameters are not saved: they follow from the settings and the step. The
exponential moving average is evaluated, saved and resumed beside the trained weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from videomae2.engine import checkpoint, parallel
from videomae2.errors import UserError


class Average:
    """The exponential moving average of every parameter: average = decay * average + (1 - decay) * parameter.

    `values` maps bare parameter names to tensors, DTensors where the parameters are sharded: there is no
    second network, and each rank averages only its own shards. Buffers are not averaged: ours are constants.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        parameters = dict(network.named_parameters())
        self._parameters = list(parameters.values())
        self.values = {parallel.bare_name(name): value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters after an optimizer step, in one foreach kernel."""
        averaged, current = self._local()
        # The first update copies: an average that began at the random initial weights would carry them for
        # about 1 / (1 - decay) steps.
        if self.updates == 0:
            torch._foreach_copy_(averaged, current)
        else:
            torch._foreach_lerp_(averaged, current, 1 - self.decay)
        self.updates += 1

    @contextmanager
    def swapped_in(self, network: nn.Module) -> Iterator[None]:
        """Exchange the values of `network` and of the average inside the block, whatever wraps the network.

        The optimizer, compiled graphs, DDP and FSDP2 hold the parameters themselves, so their storage is
        overwritten in place. The extra memory is one tensor at a time.
        """
        # Exchanged, not copied in: after a copy the trained values would have to be kept a third time.
        self._swap(network)
        try:
            yield
        finally:
            self._swap(network)

    @torch.no_grad()
    def _swap(self, network: nn.Module) -> None:
        for averaged, current in zip(*self._local(), strict=True):
            held = current.clone()
            current.copy_(averaged)
            averaged.copy_(held)
        # Only the shards were overwritten: parameters that are still gathered have the values of before.
        parallel.reshard(network)

    def _local(self) -> tuple[list[Tensor], list[Tensor]]:
        # Shards rather than DTensors: the average is elementwise, so no rank needs another rank's values and
        # no operation has to be dispatched through DTensor.
        averaged = [parallel.local(value) for value in self.values.values()]
        return averaged, [parallel.local(parameter.detach()) for parameter in self._parameters]


def build_average(network: nn.Module, decay: float) -> Average | None:
    """The average of a network that has been wrapped; None where `decay` is 0.

    UserError for a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise UserError(
            f"expected optim.ema_decay from 0 (no average) to below 1, got {decay}; "
            "try --optim.ema_decay 0.9999"
        )
    return Average(network, decay) if decay else None


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

    Collective: every rank calls it, since sharded tensors are all-gathered, and rank 0 alone keeps them.
    """
    weights: dict[str, dict[str, Tensor]] = {}
    for name, value in _weights(network, average).items():
        part, _, bare = name.partition(".")
        gathered = parallel.whole(value)
        if parallel.is_main():
            # A sharded network may be larger than the device: there one tensor at a time is whole.
            weights.setdefault(part, {})[bare] = gathered if gathered is value else gathered.cpu()
    return weights


def _weights(network: nn.Module, average: Average | None) -> dict[str, Tensor]:
    state = {parallel.bare_name(name): value.detach() for name, value in network.state_dict().items()}
    tensors = {f"model.{name}": value for name, value in state.items()}
    if average is not None:
        # Buffers are not averaged, so the averaged state dict takes those of the trained network.
        tensors |= {f"ema.{name}": value for name, value in (state | average.values).items()}
    return tensors
