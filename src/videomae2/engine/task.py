"""The one seam between a method and its training: a task owns a network, and the engine wraps the network.

The engine moves `task.network` to the device, hands it to the CPU kernels, compiles it, replicates or shards
it over processes, averages, saves and exports it. What comes of that is always just a `network` argument: the
trained one, the averaged one, wrapped or bare. A teacher, a detector or a probe is an ordinary attribute of
the task: it is neither wrapped nor saved.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from videomae2.engine.run import Metric, RunFolder
from videomae2.engine.schedule import Plan
from videomae2.records import Batch, StepOutput
from videomae2.settings import OptimSettings, RunSettings


@runtime_checkable
class Task(Protocol):
    """What is trained, what one step of it computes, and how it is judged."""

    @property
    def network(self) -> nn.Module:
        """The trained network; its `forward` is all that the engine's wrappers see of it."""
        ...

    def step(self, network: nn.Module, batch: Batch[Any], step: int) -> StepOutput:
        """Compute the loss of one batch, with gradients; `network` is called exactly once, by its
        `forward`.
        """
        ...

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Judge a network in evaluation mode, without gradients; the same numbers on every process."""
        ...


@dataclass(frozen=True)
class Job:
    """One training run of a task: its data, its schedule, its folder, and what becomes of the network.

    batches: from the number of the first batch, this process's batches from there on, without end.
    best: None keeps no best checkpoint. evaluates: whether the plan's evaluations take place.
    kernels: what makes the network fast on a CPU; called with it where the run is on one.
    wrap: what spreads the network over processes (`parallel.replicate`, `parallel.shard`).
    about: plain JSON that whoever reads a checkpoint must know of the network in it.
    finish: called on the main process at the end, with whole tensors by name: "model", and "ema" where an
    average was kept.
    """

    name: str
    batches: Callable[[int], Iterator[Batch[Any]]]
    plan: Plan
    optim: OptimSettings
    run: RunSettings
    folder: RunFolder
    best: Metric | None = None
    evaluates: bool = False
    kernels: Callable[[nn.Module], nn.Module] = lambda network: network
    wrap: Callable[[nn.Module], nn.Module] | None = None
    about: Mapping[str, Any] | None = None
    finish: Callable[[dict[str, dict[str, Tensor]]], None] = lambda weights: None
