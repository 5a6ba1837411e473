"""A run is a folder: one config.toml, one log, its checkpoints, and nothing of another run.

Beside the folder and its lock: how a run is asked to stop, how it is judged, and how it ended.
"""

import contextlib
import json
import math
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from videomae2 import config
from videomae2.errors import UserError
from videomae2.files import json_text, make_folder, sweep, write_atomically, writing

CHANGES_NOTHING = frozenset(
    {
        "data.workers", "data.max_broken", "data.max_seconds", "data.retries", "run.out", "run.device",
        "run.compile", "run.checkpoint_every", "run.evaluate_every", "run.log_every", "run.keep_last",
        "run.max_nonfinite", "run.tensorboard", "run.shard",
    }
)  # fmt: skip
"""Settings that may differ when a run is resumed: they affect how it runs, not what it computes."""

SHARES_OF_A_STEP = frozenset({"optim.batch_size", "optim.accumulate"})
"""And these where the videos of one step stay as many: over more processes, or in fewer forwards."""
MAY_MOVE = frozenset({"data.train", "data.val", "data.root"})
"""Where the data lie: an unfinished run may find them elsewhere. Whether they are the same says the identity
that each checkpoint keeps (`Job.identity`).
"""

_KIND = "# videomae2 run of "


class RunFolder:
    """Paths of one run, and the file lock that keeps other processes out of it.

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
        self._owner, self._token = path / ".owner", ""

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def create_or_resume(cls, out: str | Path, settings: Any, derived: str = "") -> "RunFolder":
        """The folder of a new run, or of the run with the same settings, to be resumed; locked.

        `settings` is the recipe's settings object, `derived` the description of its plan. UserError where no
        folder is given, it holds something else or a run with other settings (the differing keys are named),
        or another process trains in it.
        """
        if not str(out):
            raise UserError("no folder for the run was given; name one with --out, such as --out runs/first")
        folder = cls(Path(out), settings)
        if folder.path.exists() and not folder.path.is_dir():
            raise UserError(f"expected a folder for the run, got the file {folder}; give another --out")
        # Nothing is written before these checks: a mistyped --out must not change somebody's folder.
        if folder.config.is_file():
            _refuse_another_run(folder, settings, derived)
        elif folder.path.is_dir() and any(not _ours(entry.name) for entry in folder.path.iterdir()):
            raise UserError(
                f"{folder} is not empty and holds no run (no config.toml); give another --out or empty it"
            )
        make_folder(folder.path)
        with writing(folder.path):
            folder._take_lock()
        sweep(folder.path)
        folder.write_config(derived)
        make_folder(folder.checkpoints)
        return folder

    def write_config(self, derived: str = "") -> None:
        """Write config.toml, which replays the run.

        `derived`, such as a plan's description, is put at the top as comments.
        """
        # Absolute, so that the page replays the run from any working directory.
        settings = config.with_absolute_paths(self.settings)
        comments = "".join(f"# {line}\n" for line in derived.splitlines())
        write_atomically(
            self.config, f"{_KIND}{type(self.settings).__name__}\n{comments}\n{config.to_toml(settings)}"
        )

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete."""
        return self._finished.is_file()

    @property
    def finished(self) -> dict[str, Any] | None:
        """The summary written at the end of the run; None before. UserError where it is damaged."""
        if not self._finished.is_file():
            return None
        try:
            summary: dict[str, Any] = json.loads(self._finished.read_text(encoding="utf-8"))
            best = summary["best"]
            if best is not None:
                best = asdict(Best(str(best["metric"]), float(best["value"]), int(best["step"])))
            numbers = {
                name: None if value is None else float(value) for name, value in summary["metrics"].items()
            }
            kept = {"step": int(summary["step"]), "metrics": numbers, "best": best}
            # Runs that ended before it was kept do not say how they went.
            return kept | ({"how": _how(summary["how"])} if "how" in summary else {})
        except (
            OSError,
            ValueError,
            ArithmeticError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise UserError(
                f"{self._finished} is damaged ({type(error).__name__}); remove it, and run the same command "
                "again to end the run from its last checkpoint"
            ) from error

    def mark_finished(self, summary: dict[str, Any]) -> None:
        """Mark the run as complete."""
        write_atomically(self._finished, json_text(summary, 2) + "\n")

    def _take_lock(self) -> None:
        """Lock the folder for this process, by a record lock (fcntl) on .lock."""
        # A record lock belongs to the process and ends with it, even by SIGKILL, and children do not inherit
        # it. A flock belongs to the open file, which forked loader workers share: a worker that outlives its
        # killed parent would keep the run locked. A file with a process id in it would outlive everybody.
        import fcntl  # not on Windows

        lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        # Open for as long as this object lives: closing any descriptor of the file releases the lock.
        weakref.finalize(self, os.close, lock)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {self}; wait for it, stop it, or give another --out"
            ) from None
        except OSError:  # a file system without locks, such as some network mounts
            # Whoever comes last takes the run over, and who had it notices before its next line.
            self._token = uuid.uuid4().hex
            write_atomically(self._owner, self._token)

    def must_be_ours(self) -> None:
        """UserError where another process has taken this run over, on a file system without locks."""
        if self._token and self._owner.read_text(encoding="ascii") != self._token:
            raise UserError(
                f"another process has taken over the run in {self}, whose file system has no locks; let only "
                "one of them go on, or give another --out"
            )


def _ours(name: str) -> bool:
    """Whether a file was left by a process that was killed before it had written config.toml."""
    return name in (".lock", ".owner") or (name.startswith(".config.toml.") and name.endswith(".tmp"))


def _videos_of_a_step(text: str) -> str | None:
    """The number of videos of one step in a plan's description, where there is one."""
    found = re.search(r"^(?:# )?one step: (\d+) videos", text, re.MULTILINE)
    return found[1] if found else None


def _refuse_another_run(folder: RunFolder, settings: Any, derived: str) -> None:
    # The class first: the settings of another command do not even parse, and its name says more than that.
    text = folder.config.read_text(encoding="utf-8", errors="replace")
    kind = next((line.removeprefix(_KIND) for line in text.splitlines() if line.startswith(_KIND)), "")
    if kind and kind != type(settings).__name__:
        asked = _command(type(settings).__name__)
        raise UserError(f"{folder} holds a run of {_command(kind)}, not of {asked}; give another --out")
    # Absolute on both sides: the working directory is not part of a run.
    there = config.with_absolute_paths(config.from_toml(type(settings), text, str(folder.config)))
    settings = config.with_absolute_paths(settings)
    videos = _videos_of_a_step(text)
    same_step = videos is not None and videos == _videos_of_a_step(derived)
    free = CHANGES_NOTHING | (SHARES_OF_A_STEP if same_step else frozenset())
    changed = [
        each
        for each in config.differences(there, settings)
        if each.key not in free
        # A path that comes or goes is another run: then there is something else to evaluate.
        and not (each.key in MAY_MOVE and not folder.is_finished and bool(each.first) == bool(each.second))
    ]
    if changed:
        # Three keys: the line must stay readable, and more of them mean another run altogether.
        named = "; ".join(f"expected {each.key} {each.first!r}, got {each.second!r}" for each in changed[:3])
        more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{folder} holds another run: {named}{more}; give another --out, or its own settings to resume it"
        )


def _command(kind: str) -> str:
    """The command that takes settings of this class, by the class's name."""
    return kind.removesuffix("Settings").lower()


# ---- the metric of a run, and its result


@dataclass(frozen=True)
class Metric:
    """The metric of an evaluation that ranks checkpoints, and whether higher is better."""

    name: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class Best:
    """The best evaluation so far: the metric, its value and the optimizer step.

    `metric` is the key of the evaluation: "top1", or "ema_top1" for the averaged weights.
    """

    metric: str
    value: float
    step: int


@dataclass(frozen=True)
class Result:
    """How a run ended: its folder, optimizer steps, last checkpoint, last evaluation and best evaluation.

    `resumed_from` is the step of the checkpoint that this start resumed, None for a fresh start;
    `already_finished` says that an earlier start had finished the run.
    """

    folder: Path
    step: int
    checkpoint: Path | None
    metrics: dict[str, float] = field(default_factory=dict)
    best: Best | None = None
    resumed_from: int | None = None
    already_finished: bool = False


def _how(kept: Mapping[str, Any]) -> dict[str, Any]:
    """How a run went, of the types that a report reads."""
    versions = {str(name): str(number) for name, number in kept["versions"].items()}
    seconds, processes = float(kept["seconds"]), int(kept["processes"])
    return {"seconds": seconds, "device": str(kept["device"]), "processes": processes, "versions": versions}


def write_result(folder: RunFolder, result: Result, how: Mapping[str, Any] | None = None) -> None:
    """Write a result as finished.json, which marks the run as complete.

    `how` says how it ran (wall time, device, versions), for its report.
    """
    best = asdict(result.best) if result.best else None
    found = {"step": result.step, "metrics": as_json(result.metrics), "best": best, "how": dict(how or {})}
    folder.mark_finished(found)


def read_result(folder: RunFolder) -> Result:
    """The result in finished.json; `checkpoint` is None where its folder has been removed."""
    summary = folder.finished or {}
    best = Best(**summary["best"]) if summary["best"] else None
    newest = folder.checkpoints / f"step-{summary['step']}"
    # Users may delete the checkpoints of a finished run: its final weights are a file of their own.
    there = newest if newest.is_dir() else None
    metrics = from_json(summary["metrics"])
    return Result(folder.path, summary["step"], there, metrics, best, already_finished=True)


def as_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics for a JSON file, where NaN and infinity have no place: null."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def from_json(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Metrics from a JSON file; null is NaN."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


class Abandoned(KeyboardInterrupt):
    """What is done at the moment is left out, because the run was asked to stop."""


class StopRequest:
    """A context in which the first SIGTERM or SIGINT sets `number` instead of ending the process.

    It is answered on stderr at once, unless `quiet`. A later Ctrl-C raises KeyboardInterrupt; further
    SIGTERMs are ignored: cluster schedulers repeat them while the run saves its checkpoint.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)
    PATIENCE = 3.0
    """Seconds in which a second Ctrl-C must have reached the main thread, or the process is ended."""

    def __init__(self, quiet: bool = False) -> None:
        self.number = 0
        self.quiet = quiet
        self.stopping = "stopping after this step"
        """What the answer says is going to happen."""
        self._said = ""  # what was true when the signal came
        self._before: dict[int, Any] = {}
        self._abandon = False
        self._interrupted = threading.Event()

    def __enter__(self) -> "StopRequest":
        # Python forbids handlers to other threads: a program that trains in one handles signals itself.
        if threading.current_thread() is not threading.main_thread():
            return self
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        # Handlers wait until the main thread is back from torch, and a backward pass on a CPU can take half a
        # minute. Python's wakeup file descriptor does not, and a thread that reads it answers meanwhile.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._answer, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._before:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._interrupted.set()
        self._writer.close()  # ends the thread

    @contextlib.contextmanager
    def abandoning(self, stopping: str) -> Iterator[None]:
        """A block that raises Abandoned at the first signal, or at once where there was one.

        For what is repeated on resume, and can be left out at any instruction; `stopping` is the answer.
        """
        before, self.stopping = self.stopping, stopping
        try:
            if self.number:
                raise Abandoned
            self._abandon = True
            yield
        finally:
            self._abandon = False
            self.stopping = before

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            self._interrupted.set()
            raise KeyboardInterrupt
        first, self.number = not self.number, self.number or number
        self._said = self._said or self.stopping
        if first and self._abandon:
            raise Abandoned

    def _answer(self) -> None:
        """Runs in a thread: tell that a signal has come, and end a process that does not hear the second."""
        asked, latest = False, 0.0
        with self._reader:
            while came := self._reader.recv(1):
                # A loader process that was just forked still writes here: its copy of one Ctrl-C is none.
                if came[0] not in self.SIGNALS or time.monotonic() - latest < 0.2:
                    continue
                latest = time.monotonic()
                if not asked:
                    asked = True
                    again = "; again quits without saving" if came[0] == signal.SIGINT else ""
                    self._tell(f"{self._said or self.stopping}{again}")
                elif came[0] == signal.SIGINT:
                    self._tell("quitting without saving")
                    if not self._interrupted.wait(self.PATIENCE):
                        os._exit(128 + signal.SIGINT)

    def _tell(self, text: str) -> None:
        if not self.quiet:
            # Not through sys.stderr, which the main thread may be writing to. On a terminal the line of the
            # bar is cleared first; it is drawn again below.
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            with contextlib.suppress(OSError):
                os.write(2, f"{clear}{text}\n".encode())
