"""What a run writes while it works: metrics.jsonl, failures.jsonl, TensorBoard events, and a progress bar."""

import contextlib
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from videomae2.engine.progress import new_bar
from videomae2.engine.run import RunFolder
from videomae2.errors import UserError
from videomae2.files import write_atomically
from videomae2.records import Failure

PLAIN_LINE_SECONDS = 30.0
"""How often a line is written where there is no terminal to draw a bar on."""

FAILURES_TOLD = 5
"""Videos that could not be read and are named as they come; failures.jsonl names all."""


class RunLog:
    """The log of one run, from `start` steps on; lines that a killed run wrote past that step are dropped.

    metrics.jsonl has one object a line: training lines `{"step", "epoch", "loss", "lr", "grad_norm",
    "clips_per_second", ...}` with means since the line before, and evaluations `{"step", "epoch",
    "evaluation": {...}}`. `step` counts finished optimizer steps. A process that is not the main one makes a
    log with `quiet=True`.
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
        self._said = 0.0
        self._told = 0

    def __enter__(self) -> "RunLog":
        if self.quiet:
            return self
        _drop_lines_after(self.folder.metrics, self.start)
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
            with contextlib.suppress(OSError):
                self._events.close()

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self.quiet:
            sys.stderr.write(f"{text}\n")

    def train(self, record: dict[str, Any]) -> None:
        """Write a training line, and show it."""
        if self.quiet:
            return
        self._append(self.folder.metrics, [record])
        self._event("train", record)
        note = " ".join(f"{key} {record[key]:.4g}" for key in ("loss", "lr") if record.get(key) is not None)
        note += f" {record['clips_per_second']:.1f} clips/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], note=note)
        elif time.monotonic() - self._said > PLAIN_LINE_SECONDS or record["step"] == self.steps:
            self._said = time.monotonic()
            left = _clock(record.get("seconds_left", 0.0))
            self.say(f"{self.name} step {record['step']}/{self.steps} {note} {left} left")

    def advance(self, step: int) -> None:
        """Move the bar on without a line."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def evaluation(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Write an evaluation line."""
        if self.quiet:
            return
        self._append(self.folder.metrics, [{"step": step, "epoch": epoch, "evaluation": values}])
        self._event("evaluation", {"step": step, **values})
        self.say(
            f"{self.name} step {step}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items())
        )

    def failures(self, failures: Iterable[Failure]) -> None:
        """Write each row that could not be read once in the life of the run."""
        if self.quiet:
            return
        new = {(f.row, f.path): {"row": f.row, "path": f.path, "reason": f.reason} for f in failures}
        new = {key: line for key, line in new.items() if key not in self._failed}
        self._failed.update(new)
        self._append(self.folder.failures, list(new.values()))
        for line in new.values():
            self._told += 1
            if self._told <= FAILURES_TOLD:
                self.say(
                    f"row {line['row']}, {line['path']}, could not be read and is replaced: {line['reason']}"
                )
            elif self._told == FAILURES_TOLD + 1:
                self.say(f"more videos could not be read: see {self.folder.failures}")

    def _append(self, path: Path, records: list[dict[str, Any]]) -> None:
        if not records:
            return
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))
        except OSError as error:
            raise UserError(
                f"{path} could not be written: {error.strerror}; make room and run the same command "
                f"to go on from the last checkpoint"
            ) from error

    def _event(self, section: str, record: dict[str, Any]) -> None:
        if not self._tensorboard:
            return
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(
                str(self.folder.events), purge_step=self.start + 1 if self.start else None
            )
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float):
                self._events.add_scalar(f"{section}/{key}", value, record["step"])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that a kill cut short is left out, and a file not there is
    empty.
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
