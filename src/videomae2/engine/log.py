"""What a run writes and shows: metrics.jsonl, failures.jsonl, TensorBoard; lines and a bar on stderr."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from videomae2.engine import parallel
from videomae2.engine.run import RunFolder
from videomae2.errors import UserError
from videomae2.files import write_atomically
from videomae2.records import Failure

PLAIN_LINE_SECONDS = 30.0
"""Seconds between progress lines where stderr is no terminal: a cluster's log file stays short."""

FAILURES_TOLD = 5
"""Unreadable videos that are printed, at most; failures.jsonl names all."""


class RunLog:
    """The log of one run that starts or resumes after `start` optimizer steps; a context manager.

    metrics.jsonl has one object a line: training lines `{"step", "epoch", "loss", "lr", "grad_norm",
    "clips_per_second", ...}` with means since the line before, and evaluations `{"step", "epoch",
    "evaluation": {...}}`. `step` counts finished optimizer steps. Every rank but the main one passes
    `quiet=True`, and its log writes nothing.
    """

    def __init__(
        self, folder: RunFolder, start: int, steps: int, *, name: str, tensorboard: bool, quiet: bool = False
    ) -> None:
        self.folder = folder
        self.start = start
        self.steps = steps
        self.name = name
        self.quiet = quiet
        self._tensorboard = tensorboard and not quiet
        self._events: Any = None
        self._bar: Any = None
        self._last_line = 0.0
        self._printed_failures = 0

    def __enter__(self) -> "RunLog":
        # Rank 0 alone writes: ranks that append to one file would mix their lines.
        if self.quiet:
            return self
        # A killed run has logged steps after its last checkpoint. The resumed run repeats them, so their old
        # lines are dropped: no step is in the file twice.
        _drop_lines_after(self.folder.metrics, self.start)
        # Failures are kept: a file that could not be read is a fact, whether or not its step is repeated.
        self._failed = {(each["row"], each["path"]) for each in read_lines(self.folder.failures)}
        if sys.stderr.isatty():
            self._bar = new_bar()
            self._task = self._bar.add_task(self.name, total=self.steps, completed=self.start, note="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._events is not None:
            # Closing flushes; on a full disk that would hide the error that the run ends with.
            with contextlib.suppress(OSError):
                self._events.close()

    def say(self, text: str) -> None:
        """Print a line on stderr, above the progress bar where there is one."""
        if self._bar is not None:
            # Through the bar's console, which would otherwise draw over the line. Without markup, since paths
            # may contain square brackets.
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self.quiet:
            sys.stderr.write(f"{text}\n")

    def train(self, record: dict[str, Any]) -> None:
        """Write a training line to metrics.jsonl and TensorBoard, and show it."""
        if self.quiet:
            return
        self._append(self.folder.metrics, [record])
        self._event("train", record)
        note = " ".join(f"{key} {record[key]:.4g}" for key in ("loss", "lr") if record.get(key) is not None)
        note += f" {record['clips_per_second']:.1f} clips/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], note=note)
        elif time.monotonic() - self._last_line > PLAIN_LINE_SECONDS or record["step"] == self.steps:
            self._last_line = time.monotonic()
            left = _clock(record.get("seconds_left", 0.0))
            self.say(f"{self.name} step {record['step']}/{self.steps} {note} {left} left")

    def advance(self, step: int) -> None:
        """Set the progress bar to `step` without writing a line."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def evaluation(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Write an evaluation line to metrics.jsonl and TensorBoard, and show it."""
        if self.quiet:
            return
        self._append(self.folder.metrics, [{"step": step, "epoch": epoch, "evaluation": values}])
        self._event("evaluation", {"step": step, **values})
        self.say(
            f"{self.name} step {step}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items())
        )

    def failures(self, failures: Iterable[Failure]) -> None:
        """Write rows that could not be read, each once per run rather than once per epoch."""
        if self.quiet:
            return
        # By row and path: a resumed run may have a manifest in which the row is another file.
        new = {(f.row, f.path): {"row": f.row, "path": f.path, "reason": f.reason} for f in failures}
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
        if not records:
            return
        self.folder.must_be_ours()
        try:
            with path.open("a", encoding="utf-8") as file:
                # NaN is no JSON: other readers would refuse the line. A mean that is not finite is null.
                file.write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))
        except OSError as error:
            raise UserError(
                f"{path} could not be written: {error.strerror}; make room and run the same command "
                f"to resume from the last checkpoint"
            ) from error

    def _event(self, section: str, record: dict[str, Any]) -> None:
        if not self._tensorboard:
            return
        if self._events is None:
            # Imported and opened with the first event: the import is slow, and a run that fails before its
            # first line leaves no empty file. `purge_step` hides the events of repeated steps, as
            # `_drop_lines_after` does for metrics.jsonl.
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(
                str(self.folder.events), purge_step=self.start + 1 if self.start else None
            )
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float):
                self._events.add_scalar(f"{section}/{key}", value, record["step"])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, without lines that are no JSON; none where there is no such file.

    A process killed while it appended leaves an incomplete last line.
    """
    objects = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            objects.append(json.loads(line))
    return objects


def _drop_lines_after(path: Path, step: int) -> None:
    if path.is_file():
        kept = [record for record in read_lines(path) if record.get("step", 0) <= step]
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def say(text: str) -> None:
    """Write a line to stderr, from the main process alone."""
    if parallel.is_main():
        sys.stderr.write(f"{text}\n")


def new_bar() -> Any:
    """A `rich` progress bar on stderr, not yet started.

    Each task added to it needs a field `note`, the text after the remaining time.
    """
    # Imported where a bar is drawn: jobs without a terminal, and every rank but one, never pay for it.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


@contextlib.contextmanager
def row_progress(name: str, rows: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over `rows` manifest rows; call what it yields with the number of rows just finished.

    Shows nothing where stderr is no terminal. Of several ranks, which share the rows, one shows it.
    """
    if not sys.stderr.isatty() or not parallel.is_main():
        yield lambda _: None
        return
    with new_bar() as bar:
        task = bar.add_task(name, total=rows, note="")
        yield lambda done: bar.advance(task, done * parallel.world_size())
