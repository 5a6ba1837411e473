"""When things happen in a run: every duration becomes a number of optimizer steps here, once, and nowhere
else.
"""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from videomae2.errors import UserError
from videomae2.settings import Duration, OptimSettings, RunSettings

LR_BATCH = 256
"""The batch that a base learning rate is given for (paper, appendix: peak = base * batch / 256)."""

_TYPED = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ep|%|)\s*")


@dataclass(frozen=True)
class Plan:
    """A run's schedule, resolved: counts are optimizer steps unless they say batches, clips or videos.

    `batches_per_epoch` and `accumulate` count the loader's batches of one process; `effective_batch` is the
    batch that the learning-rate rule saw. An `every` of 0 means only at the end of the run (`evaluate_every`:
    never).
    """

    steps: int
    warmup_steps: int
    peak_lr: float
    final_lr: float
    batches_per_epoch: int
    accumulate: int
    videos_per_step: int
    views: int
    effective_batch: int
    checkpoint_every: int
    evaluate_every: int

    def epoch(self, step: int) -> float:
        """How many epochs have been seen after `step` steps."""
        return step * self.accumulate / self.batches_per_epoch

    def is_due(self, every: int, step: int) -> bool:
        """Whether something done every so many steps is due after `step` steps; the run's last step always
        counts.
        """
        return step == self.steps or (every > 0 and step > 0 and step % every == 0)

    def fixed(self) -> dict[str, int | float]:
        """What a resumed run must agree on: everything but when it saves and evaluates."""
        return {key: value for key, value in asdict(self).items() if not key.endswith("_every")}

    def must_equal(self, there: dict[str, Any], where: str) -> None:
        """UserError, naming what differs, if a checkpoint `where` was made on another plan (`fixed()` of it
        is `there`).
        """
        here = self.fixed()
        changed = [
            f"{key} {there.get(key)} there and {value} here"
            for key, value in here.items()
            if there.get(key) != value
        ]
        if changed:
            raise UserError(
                f"{where} was made on another schedule ({', '.join(changed)}): the manifest or the number of "
                "processes has "
                f"changed; restore them to resume, or give another --out"
            )

    def describe(self) -> str:
        """What was derived from the settings, one `name: value` a line; printed at the start and kept in
        config.toml.
        """
        lines = {
            "optimizer steps": f"{self.steps} ({self.epoch(self.steps):.4g} epochs of {self.batches_per_epoch} batches)",
            "one step": f"{self.videos_per_step} videos, {self.videos_per_step * self.views} clips, forwards: {self.accumulate}",
            "learning rate": f"0 -> {self.peak_lr:.6g} in {self.warmup_steps} steps, then cosine -> {self.final_lr:.6g}"
            if self.warmup_steps
            else f"{self.peak_lr:.6g}, cosine -> {self.final_lr:.6g}",
            "batch of the learning-rate rule": f"{self.effective_batch} (peak = base * {self.effective_batch} / {LR_BATCH})",
            "checkpoint": f"every {self.checkpoint_every} steps and at the end"
            if self.checkpoint_every
            else "at the end",
            "evaluation": f"every {self.evaluate_every} steps and at the end"
            if self.evaluate_every
            else "never",
        }
        return "\n".join(f"{name}: {value}" for name, value in lines.items())


def make_plan(  # noqa: PLR0917
    optim: OptimSettings,
    run: RunSettings,
    num_rows: int,
    views: int = 1,
    world_size: int = 1,
    batches_per_epoch: int | None = None,
) -> Plan:
    """Resolve a run's durations for a manifest of `num_rows` videos, each giving `views` clips.

    `batches_per_epoch` is the loader's own count for one process; without it, the whole batches that
    `num_rows` fill. UserError for a duration that is not one, a run of no steps, or a warm-up longer than the
    run.
    """
    _check(optim, num_rows)
    per_epoch = batches_per_epoch or max(1, num_rows // (optim.batch_size * world_size))
    steps = resolve(optim.length, per_epoch / optim.accumulate, None, "optim.length")
    if steps < 1:
        raise UserError(
            f"optim.length {optim.length!r} is no optimizer step at all; give at least one, such as 1000 or "
            "'30ep'"
        )
    resolved = {
        name: resolve(value, per_epoch / optim.accumulate, steps, name)
        for name, value in (
            ("optim.warmup", optim.warmup),
            ("run.checkpoint_every", run.checkpoint_every),
            ("run.evaluate_every", run.evaluate_every),
        )
    }
    warmup = resolved["optim.warmup"]
    if warmup > steps:
        raise UserError(
            f"optim.warmup {optim.warmup!r} is {warmup} steps, but optim.length {optim.length!r} is only "
            f"{steps}; "
            f"shorten the warm-up, for instance --optim.warmup 10%"
        )
    videos = optim.batch_size * optim.accumulate * world_size
    effective = videos * views if optim.lr_counts_views else videos
    return Plan(
        steps=steps,
        warmup_steps=warmup,
        peak_lr=optim.base_lr * effective / LR_BATCH,
        final_lr=optim.min_lr * effective / LR_BATCH,
        batches_per_epoch=per_epoch,
        accumulate=optim.accumulate,
        videos_per_step=videos,
        views=views,
        effective_batch=effective,
        checkpoint_every=resolved["run.checkpoint_every"],
        evaluate_every=resolved["run.evaluate_every"],
    )


def resolve(
    duration: Duration, steps_per_epoch: int | float, run_steps: int | None, name: str = "duration"
) -> int:
    """Optimizer steps in "30ep" (epochs), "5%" (share of the run) or 12000 (steps); a part of a step is
    dropped.

    A duration above zero is at least one step. UserError, naming the key, for anything else.
    """
    match = _TYPED.fullmatch(str(duration))
    if match is None or (match[2] == "" and "." in match[1]):
        raise UserError(
            f"{name} is {duration!r}, but a duration is epochs ('30ep'), a share of the run ('5%') or steps "
            "(12000)"
        )
    amount, unit = float(match[1]), match[2]
    if unit == "%" and run_steps is None:
        raise UserError(f"{name} is {duration!r}, a share of itself; give epochs ('30ep') or steps (12000)")
    whole = {"ep": steps_per_epoch, "%": (run_steps or 0) / 100, "": 1}[unit]
    # The product of two decimals can fall a hair short of a whole number (0.29 * 100 = 28.999...).
    steps = math.floor(amount * whole + 1e-6)
    return max(1, steps) if amount > 0 else 0


def learning_rate(plan: Plan, step: int) -> float:
    """Peak-scaled learning rate of 0-based optimizer step `step`: linear from 0 to the peak, then half a
    cosine (released).

    The warm-up reaches the peak in its last step, so a warm-up of one step is one step at 0, as in the
    released code.
    """
    if not 0 <= step < plan.steps:
        raise IndexError(f"step {step} is outside a run of {plan.steps} steps")
    if step < plan.warmup_steps:
        return plan.peak_lr * step / max(1, plan.warmup_steps - 1)
    progress = (step - plan.warmup_steps) / (plan.steps - plan.warmup_steps)
    return plan.final_lr + 0.5 * (plan.peak_lr - plan.final_lr) * (1 + math.cos(math.pi * progress))


def _check(optim: OptimSettings, num_rows: int) -> None:
    for name in ("batch_size", "accumulate"):
        if getattr(optim, name) < 1:
            raise UserError(f"optim.{name} is {getattr(optim, name)}, but it must be at least 1")
    if num_rows < 1:
        raise UserError(
            "the training manifest has no rows; give --data.train one that names at least one video"
        )
