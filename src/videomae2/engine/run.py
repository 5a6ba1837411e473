"""A run is a folder: one page of settings, one log, its checkpoints, and nothing of another run."""

import contextlib
import json
import os
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from videomae2 import config
from videomae2.errors import UserError
from videomae2.files import write_atomically

CHANGES_NOTHING = frozenset(
    {
        "data.workers", "data.max_broken", "run.out", "run.device", "run.compile", "run.checkpoint_every", "run.evaluate_every",
        "run.log_every", "run.keep_last", "run.max_nonfinite", "run.tensorboard",
    }
)  # fmt: skip
"""Settings that may differ when a run is resumed: they say how it is executed, not what it computes."""

_KIND = "# videomae2 run of "


class RunFolder:
    """Paths of one run, and the lock that keeps a second process out of it.

    config.toml (replays the run) · metrics.jsonl · failures.jsonl · events/ (TensorBoard) ·
    checkpoints/step-N/ · finished.json once the run is complete.
    """

    def __init__(self, path: Path, settings: Any = None) -> None:
        self.path = path
        self.settings = settings
        self.config = path / "config.toml"
        self.metrics = path / "metrics.jsonl"
        self.failures = path / "failures.jsonl"
        self.events = path / "events"
        self.checkpoints = path / "checkpoints"
        self._finished = path / "finished.json"

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def create_or_resume(cls, out: str | Path, settings: Any) -> "RunFolder":
        """The folder of a new run, or of the same one to go on with.

        `settings` is the recipe's settings object. UserError: no folder given, the folder holds something
        else, or a run with other settings (the keys that differ are named), or another process is at work in
        it.
        """
        if not str(out):
            raise UserError("no folder for the run was given; name one with --out, such as --out runs/first")
        folder = cls(Path(out), settings)
        if folder.path.exists() and not folder.path.is_dir():
            raise UserError(f"{folder} is a file, but a run needs a folder; give another --out")
        if folder.config.is_file():
            _refuse_another_run(folder, settings)
        elif folder.path.is_dir() and any(not _ours(entry.name) for entry in folder.path.iterdir()):
            raise UserError(
                f"{folder} is not empty and holds no run (no config.toml); give another --out or empty it"
            )
        with _readable(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            folder._take_lock()
            for leftover in folder.path.glob(".*.tmp"):
                leftover.unlink()  # of a process killed while it replaced a file
            folder.write_config()
            folder.checkpoints.mkdir(exist_ok=True)
        return folder

    def write_config(self, derived: str = "") -> None:
        """Write the page that replays the run; `derived`, such as a plan's description, goes on top as
        comments.
        """
        comments = "".join(f"# {line}\n" for line in derived.splitlines())
        write_atomically(
            self.config, f"{_KIND}{type(self.settings).__name__}\n{comments}\n{config.to_toml(self.settings)}"
        )

    @property
    def finished(self) -> dict[str, Any] | None:
        """What the run wrote when it was complete; None before."""
        return json.loads(self._finished.read_text()) if self._finished.is_file() else None

    def mark_finished(self, summary: dict[str, Any]) -> None:
        """Declare the run complete."""
        write_atomically(self._finished, json.dumps(summary, indent=2) + "\n")

    def _take_lock(self) -> None:
        """Record locks belong to the process: they end with it, even by SIGKILL, and loader workers do not
        inherit them.
        """
        import fcntl

        lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        weakref.finalize(self, os.close, lock)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {self}; wait for it, stop it, or give another --out"
            ) from None
        except OSError:
            pass  # A file system without locks: the run goes on unguarded.


def _ours(name: str) -> bool:
    """What a process killed before its first page was written leaves in a folder."""
    return name == ".lock" or (name.startswith(".config.toml.") and name.endswith(".tmp"))


def _refuse_another_run(folder: RunFolder, settings: Any) -> None:
    text = folder.config.read_text(encoding="utf-8")
    kind = next((line.removeprefix(_KIND) for line in text.splitlines() if line.startswith(_KIND)), "")
    if kind and kind != type(settings).__name__:
        asked = _command(type(settings).__name__)
        raise UserError(f"{folder} holds a run of {_command(kind)}, not of {asked}; give another --out")
    there = config.from_toml(type(settings), text, str(folder.config))
    changed = [each for each in config.differences(there, settings) if each.key not in CHANGES_NOTHING]
    if changed:
        named = "; ".join(
            f"{each.key} is {each.first!r} there and {each.second!r} here" for each in changed[:3]
        )
        more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{folder} holds another run: {named}{more}; give another --out, or the same settings to resume "
            "it"
        )


def _command(kind: str) -> str:
    """The command whose settings these are."""
    return kind.removesuffix("Settings").lower()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"the run's folder {path} cannot be written: {error.strerror}; give another --out"
        ) from error


# ---- how a run is judged, and how it ended


@dataclass(frozen=True)
class Metric:
    """The number of an evaluation by which checkpoints are compared, and which way is better."""

    name: str
    higher_is_better: bool = True


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
