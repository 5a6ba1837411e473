"""The schedule of a run: every duration is resolved to optimizer steps here, once; the learning rate."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from videomae2.errors import UserError
from videomae2.settings import Duration, OptimSettings, RunSettings

LR_BATCH = 256
"""The batch size of a base learning rate: peak = base * effective batch / 256 (paper, appendix)."""

_TYPED = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ep|%|)\s*")
_MINUTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*min\s*")


@dataclass(frozen=True)
class Plan:
    """A run's schedule, resolved: counts are optimizer steps unless they say batches, clips or videos.

    `accumulate` counts the loader's batches of one rank in one optimizer step (gradient accumulation);
    `effective_batch` is the batch size in the learning-rate rule. An `every` of 0 means only at the end of
    the run (for `evaluate_every`: never); with `checkpoint_minutes` checkpoints follow the clock instead.
    """

    steps: int
    warmup_steps: int
    peak_lr: float
    final_lr: float
    steps_per_epoch: int
    accumulate: int
    videos_per_step: int
    views: int
    effective_batch: int
    checkpoint_every: int
    evaluate_every: int
    checkpoint_minutes: float = 0.0

    def epoch(self, step: int) -> float:
        """Epochs after `step` optimizer steps, as a fraction."""
        # Not by videos: the loader drops the last partial step, so an epoch is slightly less than all rows.
        return step / self.steps_per_epoch

    @property
    def videos_per_epoch(self) -> int:
        """Videos that are asked for in one epoch, over all ranks."""
        return self.steps_per_epoch * self.videos_per_step

    def is_due(self, every: int, step: int) -> bool:
        """Whether something done every `every` steps is due after `step` steps; always after the last one."""
        # Not after 0 steps: nothing has been trained, and an evaluation would only cost time.
        return step == self.steps or (every > 0 and step > 0 and step % every == 0)

    def fixed(self) -> dict[str, int | float]:
        """The fields that a resumed run must share: all but how often it saves, evaluates and accumulates."""
        # These change neither the videos nor the learning rate of any step: a step of so many videos may be
        # taken by any number of processes, in one forward or in several.
        free = ("checkpoint_every", "checkpoint_minutes", "evaluate_every", "accumulate")
        return {key: value for key, value in asdict(self).items() if key not in free}

    def must_equal(self, there: dict[str, Any], where: str) -> None:
        """UserError, naming what differs, where a checkpoint has another plan.

        `there` is `fixed()` of the checkpoint's plan, `where` the checkpoint's name for the message.
        """
        # The settings are equal by now, but a plan also follows from the number of videos and the world size.
        # Under another plan a step would mean other videos and another learning rate.
        here = self.fixed()
        changed = [
            f"expected {key} {there.get(key)}, got {value}"
            for key, value in here.items()
            if there.get(key) != value
        ]
        if changed:
            raise UserError(
                f"{where} was made on another schedule ({', '.join(changed)}): the manifest has changed, or "
                "the videos of one step (optim.batch_size x optim.accumulate x processes); restore them to "
                "resume, or give another --out"
            )

    def describe(self) -> str:
        """What was derived from the settings, one `name: value` a line, for the log and config.toml."""
        epochs, clips = self.epoch(self.steps), self.videos_per_step * self.views
        cosine = f"cosine -> {self.final_lr:.6g}"
        lines = {
            "optimizer steps": f"{self.steps} ({epochs:.4g} epochs of {self.steps_per_epoch} steps)",
            "one step": f"{self.videos_per_step} videos, {clips} clips, forwards: {self.accumulate}",
            "learning rate": f"0 -> {self.peak_lr:.6g} in {self.warmup_steps} steps, then {cosine}"
            if self.warmup_steps
            else f"{self.peak_lr:.6g}, {cosine}",
            "batch of the learning-rate rule": f"{self.effective_batch} "
            f"(peak = base * {self.effective_batch} / {LR_BATCH})",
            "checkpoint": f"every {self.checkpoint_every} steps and at the end"
            if self.checkpoint_every
            else f"every {self.checkpoint_minutes:g} minutes and at the end"
            if self.checkpoint_minutes
            else "at the end",
            "evaluation": f"every {self.evaluate_every} steps and at the end"
            if self.evaluate_every
            else "never",
        }
        return "\n".join(f"{name}: {value}" for name, value in lines.items())


def make_plan(
    optim: OptimSettings,
    run: RunSettings,
    num_rows: int,
    views: int = 1,
    world_size: int = 1,
) -> Plan:
    """Resolve a run's durations for a manifest of `num_rows` videos, each giving `views` clips.

    An epoch is a whole number of optimizer steps (as released), whoever takes them. UserError for what is no
    duration, a run of no steps, or a warm-up longer than the run.
    """
    _check(optim, num_rows)
    videos = optim.batch_size * optim.accumulate * world_size
    per_epoch = max(1, num_rows // videos)
    steps = resolve(optim.length, per_epoch, None, "optim.length")
    if steps < 1:
        raise UserError(
            f"expected optim.length of at least one optimizer step, got {optim.length!r}; try 1000 or '30ep'"
        )
    minutes = _MINUTES.fullmatch(str(run.checkpoint_every))
    resolved = {
        name: resolve(value, per_epoch, steps, name)
        for name, value in (
            ("optim.warmup", optim.warmup),
            ("run.checkpoint_every", 0 if minutes else run.checkpoint_every),
            ("run.evaluate_every", run.evaluate_every),
        )
    }
    warmup = resolved["optim.warmup"]
    if warmup > steps:
        raise UserError(
            f"expected optim.warmup of at most the {steps} steps of optim.length {optim.length!r}, "
            f"got {optim.warmup!r}, {warmup} steps; try --optim.warmup 10%"
        )
    # The released linear scaling rule multiplies the base rate by the batch over all ranks and accumulated
    # batches. Whether views of one video count as clips of their own differs between the paper's
    # pre-training and the released fine-tuning.
    effective = videos * views if optim.lr_counts_views else videos
    return Plan(
        steps=steps,
        warmup_steps=warmup,
        peak_lr=optim.base_lr * effective / LR_BATCH,
        final_lr=optim.min_lr * effective / LR_BATCH,
        steps_per_epoch=per_epoch,
        accumulate=optim.accumulate,
        videos_per_step=videos,
        views=views,
        effective_batch=effective,
        checkpoint_every=resolved["run.checkpoint_every"],
        evaluate_every=resolved["run.evaluate_every"],
        checkpoint_minutes=float(minutes[1]) if minutes else 0.0,
    )


def resolve(
    duration: Duration, steps_per_epoch: int | float, run_steps: int | None, name: str = "duration"
) -> int:
    """Optimizer steps in "30ep" (epochs), "5%" (share of the run) or 12000 (steps), rounded down.

    A duration above zero is at least one step. `run_steps` is None where no share is possible, for the length
    of the run itself. UserError, naming the key, for anything else.
    """
    match = _TYPED.fullmatch(str(duration))
    if match is None or (match[2] == "" and "." in match[1]):
        raise UserError(
            f"expected {name} in epochs ('30ep'), as a share of the run ('5%') or in steps (12000), "
            f"got {duration!r}"
        )
    amount, unit = float(match[1]), match[2]
    if unit == "%" and run_steps is None:
        raise UserError(
            f"expected {name} in epochs ('30ep') or steps (12000), got {duration!r}, a share of itself"
        )
    whole = {"ep": steps_per_epoch, "%": (run_steps or 0) / 100, "": 1}[unit]
    # Two decimals multiplied in binary can fall a hair short of a whole number (0.29 * 100 = 28.999...).
    steps = math.floor(amount * whole + 1e-6)
    return max(1, steps) if amount > 0 else 0


def learning_rate(plan: Plan, step: int) -> float:
    """Learning rate of optimizer step `step`, from 0 on: linear warm-up from 0, then cosine decay (released).

    The warm-up reaches the peak in its last step. A warm-up of one step is therefore one step at 0, as in the
    released code, and the decay ends one step short of `final_lr`.
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
            raise UserError(f"expected optim.{name} of at least 1, got {getattr(optim, name)}")
    if num_rows < 1:
        raise UserError(
            "expected a training manifest with at least one video, got one that has no rows; try another "
            "--data.train"
        )
