"""One optimizer step: forwards, gradients, clipping, the finiteness policy, the update. It never waits for
the device.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from videomae2 import chance
from videomae2.engine import parallel
from videomae2.engine.device import autocast, seeded
from videomae2.engine.optim import set_learning_rate
from videomae2.engine.task import Task
from videomae2.errors import UserError
from videomae2.records import Batch, Failure
from videomae2.settings import OptimSettings, RunSettings


class RunStopped(UserError):
    """Too many steps in a row had a loss or gradient that is not finite. The weights are those of the last
    good step.
    """


class StepSums:
    """Sums over the steps since the last log line, on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.good: Tensor | float = 0.0
        self.steps = 0
        self.clips = 0
        self.failures: list[Failure] = []

    def add(self, values: dict[str, Tensor], good: Tensor) -> None:
        """Add a step's values; one that was skipped counts for nothing, so that a NaN does not hide the
        others.
        """
        for name, value in values.items():
            kept = torch.where(good > 0, value.detach().float(), 0.0)
            self.sums[name] = self.sums[name] + kept if name in self.sums else kept
        self.good = self.good + good
        self.steps += 1

    def means(self) -> dict[str, float | None]:
        """Mean of each value over the finite steps and over the processes; None where every step was
        skipped.
        """
        if not self.sums:
            return {}
        names = sorted(self.sums)
        stacked = parallel.mean(torch.stack([self.sums[name] for name in names]) / self.good)
        return {
            name: value if math.isfinite(value) else None
            for name, value in zip(names, stacked.tolist(), strict=True)
        }


class Stepper:
    """Takes optimizer steps on a task and remembers how many were skipped.

    Finiteness policy: a step whose loss or gradient norm is not finite, on any process, changes nothing. The
    flag stays on the device, where the fused optimizer reads it; the averaged weights move towards unchanged
    ones. The host reads the counts on a CPU at every step, on a GPU when it logs, and stops after more than
    `max_nonfinite` in a row.
    """

    def __init__(  # noqa: PLR0917
        self,
        task: Task,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        optim: OptimSettings,
        run: RunSettings,
        device: torch.device,
    ) -> None:
        self.task = task
        self.network = network
        self.optimizer = optimizer
        self.optim = optim
        self.run = run
        self.device = device
        self.window = StepSums()
        self.counts = torch.zeros(3, device=device)  # skipped in all, skipped in a row, most skipped in a row
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def take(self, step: int, learning_rate: float, batches: Iterator[Batch[Any]]) -> None:
        """Run forward and backward over the next `accumulate` batches, then update once.

        UserError from a broken loader.
        """
        self.network.train()
        set_learning_rate(self.optimizer, learning_rate)
        values: dict[str, Tensor] = {}
        for micro in range(self.optim.accumulate):
            for name, value in self._forward_backward(step, micro, next(batches)).items():
                values[name] = values[name] + value if name in values else value
        norm = self._clip()
        good = torch.isfinite(norm + values["loss"]).float()
        bad = parallel.any_true(1.0 - good)
        self._update(bad)
        self.window.add({**values, "grad_norm": norm}, 1.0 - bad)

    def check(self, step: int) -> None:
        """Read the counts after `step` steps; RunStopped if too many in a row were skipped."""
        _, _, most = self.counts.tolist()
        if most > self.run.max_nonfinite:
            raise RunStopped(
                f"the loss or its gradient was not finite in {most:.0f} steps in a row up to step {step} "
                f"(run.max_nonfinite is {self.run.max_nonfinite}); the weights were left as before them; try "
                "a "
                "lower --optim.base_lr, a longer --optim.warmup, --optim.clip_grad 1.0 or --run.precision "
                "fp32, "
                f"in a new --out"
            )

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        skipped, in_a_row, most = self.counts.tolist()
        return {"skipped": skipped, "in_a_row": in_a_row, "most_in_a_row": most}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the counts of a checkpoint."""
        counts = [state["skipped"], state["in_a_row"], state["most_in_a_row"]]
        self.counts = torch.tensor(counts, dtype=torch.float32, device=self.device)

    def _forward_backward(self, step: int, micro: int, batch: Batch[Any]) -> dict[str, Tensor]:
        self.window.clips += len(batch)
        self.window.failures += batch.failures
        share = 1.0 / self.optim.accumulate
        last = micro == self.optim.accumulate - 1
        key = chance.key(self.run.seed, "step", step, micro, parallel.rank())
        with seeded(key, self.device), parallel.exchanging(self.network, last):
            with autocast(self.device, self.run.precision):
                output = self.task.step(self.network, batch.to(self.device), step)
            (output.loss * share).backward()
        return {
            name: value.detach() * share for name, value in (("loss", output.loss), *output.metrics.items())
        }

    def _clip(self) -> Tensor:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = parallel.whole(get_total_norm(gradients))
        if self.optim.clip_grad > 0:
            clip_grads_with_norm_(self.parameters, self.optim.clip_grad, norm)
        return norm

    def _update(self, bad: Tensor) -> None:
        # torch's own gradient scaler uses this flag to tell a fused optimizer, on the device, to skip a step.
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        skipped, in_a_row, most = self.counts.unbind()
        in_a_row = (in_a_row + 1) * bad
        self.counts = torch.stack([skipped + bad, in_a_row, torch.maximum(most, in_a_row)])
