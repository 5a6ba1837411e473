"""How a run ended: what `train` returns, and what a finished run remembers."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from videomae2.engine.run import RunFolder


@dataclass(frozen=True)
class Best:
    """The best evaluation so far: the metric's name ("top1", or "ema_top1" for the averaged weights), value
    and step.
    """

    metric: str
    value: float
    step: int


@dataclass(frozen=True)
class Result:
    """A run's folder, steps done, last checkpoint, last evaluation, best one, and whether there was anything
    left to do.
    """

    folder: Path
    step: int
    checkpoint: Path | None
    metrics: dict[str, float] = field(default_factory=dict)
    best: Best | None = None
    resumed_from: int | None = None
    already_finished: bool = False


def write_result(folder: RunFolder, result: Result) -> None:
    """Mark a run finished."""
    best = asdict(result.best) if result.best else None
    folder.mark_finished({"step": result.step, "metrics": result.metrics, "best": best})


def read_result(folder: RunFolder) -> Result:
    """The result of a run that was finished before."""
    summary = folder.finished or {}
    best = Best(**summary["best"]) if summary["best"] else None
    newest = folder.checkpoints / f"step-{summary['step']}"
    there = newest if newest.is_dir() else None
    return Result(folder.path, summary["step"], there, summary["metrics"], best, already_finished=True)
