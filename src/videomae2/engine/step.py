"""One optimizer step: gradient accumulation, clipping, the check for finite values, the update.

The host never waits for the device in a step: it queues the next step's kernels while the device computes.
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
from videomae2.settings import OptimSettings, RunSettings


class RunStopped(UserError):
    """Too many steps in a row had a loss or gradient that is not finite.

    The weights are those of the last finite step.
    """


class StepSums:
    """Sums over the steps since the last log line; they remain on the device until the line is written."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.good: Tensor | float = 0.0
        self.steps = 0
        self.clips = 0

    def add(self, values: dict[str, Tensor], good: Tensor) -> None:
        """Add the scalars of a step; `good`, on the device, is 0.0 for a skipped one, else 1.0."""
        for name, value in values.items():
            # `where` and no product: NaN times 0 is NaN, and one skipped step would hide the others' mean.
            kept = torch.where(good > 0, value.detach().float(), 0.0)
            self.sums[name] = self.sums[name] + kept if name in self.sums else kept
        self.good = self.good + good
        self.steps += 1

    def means(self) -> dict[str, float | None]:
        """Mean of each scalar over the steps taken and over the ranks; None where every step was skipped."""
        if not self.sums:
            return {}
        # One collective and one transfer for all scalars. Sorted, so that every rank stacks the same order.
        names = sorted(self.sums)
        stacked = parallel.mean(torch.stack([self.sums[name] for name in names]) / self.good)
        return {
            name: value if math.isfinite(value) else None
            for name, value in zip(names, stacked.tolist(), strict=True)
        }


class Stepper:
    """Takes optimizer steps on a task and counts those that were skipped.

    A step whose loss or gradient norm is not finite on any rank is skipped: weights and moments are
    unchanged. More than `run.max_nonfinite` skipped steps in a row end the run with RunStopped.
    """

    # Whether to skip is a flag on the device that the fused optimizer reads there. To branch on it in Python,
    # the host would have to wait for every step's loss, and a GPU would be idle until the next kernels are
    # queued. So the host reads the counts only when it logs (on a CPU, where nothing is queued, each step).

    def __init__(  # noqa: PLR0917  # the parts of a run, each passed once, by the loop
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

    def take(self, step: int, learning_rate: float, batches: Iterator[Any]) -> None:
        """Take one optimizer step: forward and backward over `accumulate` batches, then one update.

        `step` is the 0-based optimizer step. UserError where the loader failed.
        """
        self.network.train()
        set_learning_rate(self.optimizer, learning_rate)
        values: dict[str, Tensor] = {}
        for micro in range(self.optim.accumulate):
            for name, value in self._forward_backward(step, micro, next(batches)).items():
                values[name] = values[name] + value if name in values else value
        norm = self._clip()
        good = torch.isfinite(norm + values["loss"]).float()
        # Agreed over the ranks: the loss is each rank's own, and where one alone skipped a step the replicas
        # would differ from then on.
        bad = parallel.any_true(1.0 - good)
        self._update(bad)
        self.window.add({**values, "grad_norm": norm}, 1.0 - bad)

    def check(self, step: int) -> None:
        """Read the counts after `step` steps; RunStopped if too many in a row were skipped.

        Waits for the device.
        """
        # The longest series so far and not the current one, which may have ended since the last reading.
        _, _, most = self.counts.tolist()
        if most > self.run.max_nonfinite:
            raise RunStopped(
                f"the loss or its gradient was not finite in {most:.0f} steps in a row up to step {step} "
                f"(run.max_nonfinite is {self.run.max_nonfinite}); the weights are those before these steps; "
                "try a lower --optim.base_lr, a longer --optim.warmup, --optim.clip_grad 1.0 or "
                "--run.precision fp32, in a new --out"
            )

    def state(self) -> dict[str, Any]:
        """The counts, as JSON for a checkpoint."""
        skipped, in_a_row, most = self.counts.tolist()
        return {"skipped": skipped, "in_a_row": in_a_row, "most_in_a_row": most}

    def restore(self, state: dict[str, Any]) -> None:
        """Set the counts to those of a checkpoint."""
        counts = [state["skipped"], state["in_a_row"], state["most_in_a_row"]]
        self.counts = torch.tensor(counts, dtype=torch.float32, device=self.device)

    def _forward_backward(self, step: int, micro: int, batch: Any) -> dict[str, Tensor]:
        self.window.clips += len(batch)
        share = 1.0 / self.optim.accumulate
        last = micro == self.optim.accumulate - 1
        # A seed for each step, accumulated batch and rank. A resumed run repeats the dropout of its steps
        # without generator states in the checkpoint; and ranks must not all drop the same units.
        key = chance.key(self.run.seed, "step", step, micro, parallel.rank())
        with seeded(key, self.device), parallel.exchanging(self.network, last):
            with autocast(self.device, self.run.precision):
                output = self.task.step(self.network, batch.to(self.device), step)
            # Outside autocast, as torch advises: each operation runs backward in the type of its forward.
            (output.loss * share).backward()
        return {
            name: value.detach() * share for name, value in (("loss", output.loss), *output.metrics.items())
        }

    def _clip(self) -> Tensor:
        # The norm is computed even without clipping: it is logged, and finite only if every gradient is.
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = parallel.whole(get_total_norm(gradients))
        if self.optim.clip_grad > 0:
            clip_grads_with_norm_(self.parameters, self.optim.clip_grad, norm)
        return norm

    def _update(self, bad: Tensor) -> None:
        # The attribute by which torch's GradScaler makes a fused optimizer skip a step. There is no other
        # interface to it, and a scaler itself would be of no use to bf16.
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # Arithmetic in place of branches keeps the counts on the device.
        skipped, in_a_row, most = self.counts.unbind()
        in_a_row = (in_a_row + 1) * bad
        self.counts = torch.stack([skipped + bad, in_a_row, torch.maximum(most, in_a_row)])
