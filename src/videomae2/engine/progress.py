"""What a user sees on stderr: lines from the main process, and a progress bar where stderr is a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from videomae2.engine import parallel


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

    Shows nothing where stderr is no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with new_bar() as bar:
        task = bar.add_task(name, total=rows, note="")
        yield lambda done: bar.advance(task, done)
