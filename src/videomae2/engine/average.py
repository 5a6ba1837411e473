"""Averaged weights: an exponential moving average that is evaluated, saved and resumed beside the trained
ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from videomae2.engine import parallel
from videomae2.errors import UserError


class Average:
    """A second value of every parameter that follows the first: no second network, and sharded as it is.

    The first update copies, later ones move by 1 - decay in one foreach kernel. Buffers are not averaged:
    ours are constants. `values` maps bare parameter names to tensors (DTensors where parameters are sharded).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        parameters = dict(network.named_parameters())
        self._parameters = list(parameters.values())
        self.values = {parallel.bare_name(name): value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Follow the parameters by one step."""
        averaged, current = self._local()
        if self.updates == 0:
            torch._foreach_copy_(averaged, current)
        else:
            torch._foreach_lerp_(averaged, current, 1 - self.decay)
        self.updates += 1

    @contextmanager
    def swapped_in(self, network: nn.Module) -> Iterator[None]:
        """Inside, `network` has the averaged values, under whatever wraps it; one tensor more is held at a
        time.
        """
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
        parallel.reshard(network)

    def _local(self) -> tuple[list[Tensor], list[Tensor]]:
        averaged = [parallel.local(value) for value in self.values.values()]
        return averaged, [parallel.local(parameter.detach()) for parameter in self._parameters]


def build_average(network: nn.Module, decay: float) -> Average | None:
    """The average of a network that has been wrapped; None where `decay` is 0.

    UserError for a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise UserError(
            f"optim.ema_decay is {decay}, but an average needs a decay from 0 (off) to below 1, such as "
            "0.9999"
        )
    return Average(network, decay) if decay else None
