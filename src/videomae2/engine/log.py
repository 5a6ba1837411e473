"""What a run writes: metrics.jsonl, failures.jsonl, TensorBoard; and what it shows of it meanwhile."""

import contextlib
import importlib.util
import io
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from videomae2.engine.progress import Progress, about, progress, say
from videomae2.engine.run import RunFolder, as_json
from videomae2.files import append, json_text, make_folder, write_atomically
from videomae2.records import Failure

TIMED_STEPS = 20
"""The duration of a run is told after this many steps, or after a few slow ones."""
TIMED_SECONDS = 10.0
"""How long two or more steps must have taken to be those few."""
LONG_SECONDS = 3600.0
"""From here on a CPU is told what to do instead of waiting."""

FAILURES_TOLD = 5
"""Unreadable videos that are printed, at most; failures.jsonl names all."""


class RunLog:
    """The log of one run that starts or resumes after `start` optimizer steps; a context manager.

    metrics.jsonl has one object a line: training lines `{"step", "epoch", "loss", "lr", "grad_norm",
    "clips_per_second", ...}` with means since the line before, evaluations `{"step", "epoch",
    "evaluation": {...}}`, and notes `{"step", "note"}`. `step` counts finished optimizer steps.
    Every rank but the main one passes `quiet=True`, and its log writes nothing.
    """

    def __init__(
        self,
        folder: RunFolder,
        start: int,
        steps: int,
        *,
        name: str,
        tensorboard: bool,
        on_cpu: bool = False,
        quiet: bool = False,
    ) -> None:
        self.on_cpu = on_cpu
        self.folder = folder
        self.start = start
        self.steps = steps
        self.name = name
        self.quiet = quiet
        self._tensorboard = tensorboard and not quiet
        self._events: Events | None = None
        self._stack = contextlib.ExitStack()
        self._progress: Progress | None = None
        self._told = self._foretold = False
        self._printed_failures = 0

    def __enter__(self) -> "RunLog":
        # Rank 0 alone writes: ranks that append to one file would mix their lines.
        if self.quiet:
            return self
        # A killed run has logged steps after its last checkpoint. The resumed run repeats them, so their old
        # lines are dropped: no step is in the file twice.
        _drop_lines_after(self.folder.metrics, self.start)
        # Failures are kept: a file that could not be read is a fact, whether or not its step is repeated. But
        # not the part of a line that a kill has left, to which the next would be added.
        _drop_lines_after(self.folder.failures, self.start)
        self._failed = {(each["row"], each["path"]) for each in read_failures(self.folder.failures)}
        self._progress = self._stack.enter_context(progress(f"{self.name} step", self.steps, self.start))
        if self._tensorboard and importlib.util.find_spec("tensorboard") is None:
            self._tensorboard = False
            self.say(
                "TensorBoard is not installed, so its events are not written: pip install tensorboard, or "
                "add --run.no_tensorboard"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def say(self, text: str) -> None:
        """Print a line on stderr, above the progress bar where there is one."""
        if not self.quiet:
            say(text)

    def train(self, record: dict[str, Any]) -> None:
        """Write a training line to metrics.jsonl and TensorBoard, and show it."""
        if self._progress is None:
            return
        self._append(self.folder.metrics, [record])
        self._event("train", record)
        note = " ".join(f"{key} {record[key]:.4g}" for key in ("loss", "lr") if record.get(key) is not None)
        at_once = not self._told or record["step"] == self.steps
        self._progress.to(record["step"], f"{note} {record['clips_per_second']:.1f} clips/s", at_once)
        self._told = True

    def advance(self, step: int) -> None:
        """Set the progress to `step`, without a line of the log; say, once, how long the rest will take."""
        if self._progress is None:
            return
        self._progress.to(step)
        timed, left = step - self.start - 1, self.steps - step
        # Two steps are soon done, and then hardly say anything: their batches were waiting. But slow ones
        # should not be waited for.
        enough = timed >= TIMED_STEPS or (self.pace and timed >= 2 and timed * self.pace > TIMED_SECONDS)
        if self._foretold or not self.pace or not left or not (enough or (timed and left == 1)):
            return
        self._foretold = True
        seconds = left * self.pace
        self.say(
            f"{about(seconds)} for the other {left} steps on this device ({self.pace:.2g} s each; "
            "evaluations and checkpoints not counted)"
        )
        if self.on_cpu and seconds > LONG_SECONDS:
            self.say(
                "that is long for a CPU: try --preset tiny, fewer epochs (--optim.length), a smaller network "
                "(--model.name vit_s16), smaller clips (--model.size 112), or a machine with a GPU; Ctrl-C "
                "stops and keeps what is done"
            )

    @property
    def pace(self) -> float | None:
        """Seconds a step, without evaluations and checkpoints; None before the second step, and if quiet."""
        return self._progress.pace if self._progress is not None else None

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """A block whose time is not that of steps."""
        return self._progress.paused() if self._progress is not None else contextlib.nullcontext()

    def evaluation(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Write an evaluation line to metrics.jsonl and TensorBoard, and show it."""
        if self.quiet:
            return
        line = {"step": step, "epoch": epoch, "evaluation": as_json(values)}
        self._append(self.folder.metrics, [line])
        self._event("evaluation", {"step": step, **values})
        self.say(
            f"{self.name} step {step}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items())
        )

    def note(self, step: int, text: str) -> None:
        """Write a sentence that the run should remember to metrics.jsonl, and show it."""
        if not self.quiet:
            self._append(self.folder.metrics, [{"step": step, "note": text}])
            self.say(text)

    def failures(self, failures: Iterable[Failure]) -> None:
        """Write rows that could not be read, each once per run rather than once per epoch."""
        if self.quiet:
            return
        # By row and path: a resumed run may have a manifest in which the row is another file.
        new = {(f.row, f.path): asdict(f) for f in failures}
        new = {key: line for key, line in new.items() if key not in self._failed}
        self._failed.update(new)
        self._append(self.folder.failures, list(new.values()))
        for line in new.values():
            self._printed_failures += 1
            if self._printed_failures <= FAILURES_TOLD:
                self.say(
                    f"row {line['row']}, {line['path']}, could not be read and is replaced: {line['reason']}"
                )
            elif self._printed_failures == FAILURES_TOLD + 1:
                self.say(f"more videos could not be read: see {self.folder.failures}")

    def _append(self, path: Path, records: list[dict[str, Any]]) -> None:
        if records:
            self.folder.must_be_ours()
            # NaN is no JSON: other readers would refuse the line. A mean that is not finite is null.
            append(path, "".join(f"{json_text(record)}\n" for record in records))

    def _event(self, section: str, record: dict[str, Any]) -> None:
        if not self._tensorboard:
            return
        # Made with the first event: the import is slow, and a run that fails before its first line leaves no
        # empty file.
        self._events = self._events or Events(self.folder.events, self.start)
        self._events.write(
            record["step"],
            {
                f"{section}/{key}": value
                for key, value in record.items()
                if key != "step" and isinstance(value, int | float)
            },
        )


class Events:
    """A file of TensorBoard events, of a run that starts or resumes after `start` steps.

    Written at once and as whole records, where TensorBoard's own writer does so in a thread, whose errors, as
    on a full disk, come late and with a traceback.
    """

    def __init__(self, folder: Path, start: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        make_folder(folder)
        self.path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._add(Event(wall_time=time.time(), step=start, file_version="brain.Event:2"))
        if start:
            # Hides the events of steps that are repeated, as `_drop_lines_after` does for metrics.jsonl.
            again = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=time.time(), step=start + 1, session_log=again))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars by tag. UserError where the system refuses to write."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def _add(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        append(self.path, record.getvalue())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, without lines that are none; nothing where there is no such file.

    A process killed while it appended leaves an incomplete last line.
    """
    objects = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.split("\n"):  # names may hold what `splitlines` also takes for the end of a line
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, dict):
                objects.append(found)
    return objects


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl as a `RunLog` writes them; an editor or a bad disk may have left others."""
    return [line for line in read_lines(path) if _is_metrics(line)]


def _is_metrics(line: dict[str, Any]) -> bool:
    if not (isinstance(line.get("step"), int) and 0 <= line["step"] < 10**15):
        return False
    if "note" in line:
        return isinstance(line["note"], str)
    values = line.get("evaluation", line)
    if not isinstance(values, dict) or ("evaluation" not in line and line.get("clips_per_second") is None):
        return False
    numbers = [*values.values(), line.get("epoch")]
    return all(each is None or (isinstance(each, int | float) and abs(each) < 1e300) for each in numbers)


def read_failures(path: Path) -> list[dict[str, Any]]:
    """The lines of failures.jsonl that say a row, its path and the reason."""
    kinds = {"row": int, "path": str, "reason": str}
    return [
        line
        for line in read_lines(path)
        if all(isinstance(line.get(name), kind) for name, kind in kinds.items())
    ]


def _drop_lines_after(path: Path, step: int) -> None:
    if path.is_file():
        kept = [record for record in read_lines(path) if _step(record) <= step]
        write_atomically(path, "".join(f"{json_text(record)}\n" for record in kept))


def _step(record: dict[str, Any]) -> int | float:
    step = record.get("step", 0)  # a failure has none
    return step if isinstance(step, int | float) else math.inf
