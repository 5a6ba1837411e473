"""How far something is and when it will be done: bars on a terminal, plain lines elsewhere, one look for all.

All bars of the process are in one display, and lines are printed above it: an evaluation inside training has
its own bar below that of the steps.
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from videomae2.engine import parallel

PLAIN_LINE_SECONDS = 30.0
"""Seconds between progress lines where stderr is no terminal: a cluster's log file stays short."""
PACE_OVER = 50
"""Updates over which the pace is measured: a run that begins beside others has another one later."""

_display: Any = None
"""The rich display while bars are shown; its terminal is one, and so is it."""


def say(text: str) -> None:
    """Write a line to stderr, from the main process alone, above the bars where there are some."""
    if not parallel.is_main():
        return
    if _display is not None:
        # Through the display, which would otherwise draw over the line. Without markup, since paths may
        # contain square brackets.
        _display.console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        sys.stderr.write(f"{text}\n")


class Progress:
    """How many of `total` units are done; made by `progress`."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        self.name, self.total, self.done = name, total, done
        self.note = ""
        self._times: deque[tuple[float, int]] = deque(maxlen=PACE_OVER)
        self._last_line = time.monotonic()
        self._bar: Any = None

    def advance(self, by: int = 1) -> None:
        """Say that `by` more units are done."""
        self.to(self.done + by)

    def to(self, done: int, note: str | None = None, at_once: bool = False) -> None:
        """Say that `done` units are done; `note` stands beside them from now on.

        Without a terminal a line is written `at_once`, or where the one before is old enough.
        """
        self.done, self.note = done, self.note if note is None else note
        now = time.monotonic()
        if not self._times or done > self._times[-1][1]:
            self._times.append((now, done))
        left = None if self.seconds_left is None else clock(self.seconds_left)
        if self._bar is not None:
            _display.update(self._bar, completed=done, left=left or "-:--:--", note=self.note)
        elif at_once or now - self._last_line > PLAIN_LINE_SECONDS:
            self._last_line = now
            parts = (self.name, f"{done}/{self.total}", self.note, left and f"{left} left")
            say(" ".join(part for part in parts if part))

    @property
    def pace(self) -> float | None:
        """Seconds a unit; None before the second update, since until the first everything is started."""
        if len(self._times) < 2:
            return None
        (first, before), (last, now) = self._times[0], self._times[-1]
        return (last - first) / (now - before)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all is done, at the pace so far."""
        return None if self.pace is None else self.pace * (self.total - self.done)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A block whose time does not count: an evaluation or a checkpoint between two steps."""
        began = time.monotonic()
        try:
            yield
        finally:
            gap = time.monotonic() - began
            self._times = deque(((at + gap, done) for at, done in self._times), maxlen=PACE_OVER)


@contextlib.contextmanager
def progress(name: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show how far something is while the block runs: `total` units, of which `done` were done before."""
    global _display  # noqa: PLW0603  # there is one terminal
    shown = Progress(name, total, done)
    if not (parallel.is_main() and sys.stderr.isatty()):
        yield shown
        return
    outermost = _display is None
    if outermost:
        _display = _new_display()
        _display.start()
    shown._bar = _display.add_task(name, total=total, completed=done, left="-:--:--", note="")
    try:
        yield shown
    finally:
        if outermost:
            _display.stop()
            _display = None
        else:
            _display.remove_task(shown._bar)  # many evaluations would fill the terminal with bars


def clock(seconds: float) -> str:
    """A time span as h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def about(seconds: float) -> str:
    """A time span in words, as exact as an estimate is: "about 12 minutes"."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        count = seconds / length
        if count >= 1.5:
            return f"about {count:.0f} {unit}" if count >= 10 else f"about {count:.2g} {unit}"
    return "about a minute" if seconds > 45 else "less than a minute"


def _new_display() -> Any:
    # Imported where a bar is drawn: jobs without a terminal, and every rank but one, never pay for it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    # Not rich's own remaining time: it forgets steps of more than 30 seconds, and then never shows one.
    return Display(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA {task.fields[left]}"),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
