"""The interface between a training method and the engine: a task owns a network, the engine wraps it.

The engine moves `task.network` to the device, applies the CPU kernels, compiles it, replicates or shards it
over the ranks, averages, saves and exports it. A task receives the result as its `network` argument, trained
or averaged, wrapped or bare, and never needs to know which. A teacher, a detector or a probe is an ordinary
attribute of the task: it is neither wrapped nor saved.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from videomae2.engine.run import Metric, RunFolder
from videomae2.engine.schedule import Plan
from videomae2.records import StepOutput
from videomae2.settings import OptimSettings, RunSettings


@runtime_checkable
class Task(Protocol):
    """What is trained, the loss of one step, and the metrics of an evaluation."""

    @property
    def network(self) -> nn.Module:
        """The trained network. Wrappers intercept only its `forward`, so a step must call that."""
        ...

    def step(self, network: nn.Module, batch: Any, step: int) -> StepOutput:
        """Compute the loss of one batch, with gradients; `step` is the 0-based optimizer step.

        `batch` is what `Job.batches` yields: a Batch, or a record with its `epoch`, `failures`,
        `replaced`, `to` and length.

        `network` is called exactly once, since DDP prepares one backward for each forward.
        """
        ...

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Metrics of a network; called in eval mode without gradients. Every rank returns the same."""
        ...


@dataclass(frozen=True)
class Job:
    """A training run of a task: data, schedule and folder, and how its network is wrapped and saved.

    batches: maps a batch number to this rank's endless batches from that number on.
    best: the metric that chooses the best checkpoint; None keeps none.
    evaluates: whether the plan's evaluations take place.
    origin: what the network starts from, as a start says it.
    kernels: replaces modules by faster ones for a CPU; called only where the run is on a CPU.
    max_broken: the share of the videos asked for, over all ranks, above which the run stops.
    about: plain JSON saved in every checkpoint: what a reader must know about the network in it.
    identity: plain JSON that says which data the run is trained on; a resume with another is refused by key.
    finish: called on the main process at the end with the state dicts "model" and, with an average, "ema".
    """

    # Functions rather than objects of other packages: the engine knows neither data, models nor weights, and
    # a recipe passes them in.

    name: str
    batches: Callable[[int], Iterator[Any]]
    plan: Plan
    optim: OptimSettings
    run: RunSettings
    folder: RunFolder
    best: Metric | None = None
    evaluates: bool = False
    origin: str = "initial weights drawn from the seed"
    kernels: Callable[[nn.Module], nn.Module] = lambda network: network
    max_broken: float = 1.0
    about: Mapping[str, Any] | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[dict[str, dict[str, Tensor]]], None] = lambda _: None
