"""Exponential moving average of the weights: evaluated, saved and resumed beside the trained ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from videomae2.engine import parallel
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
