"""What whoever watches sees on stderr: lines from the main process, and a progress bar where there is a
terminal.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from videomae2.engine import parallel


def say(text: str) -> None:
    """Write a line for whoever watches, from the main process alone."""
    if parallel.is_main():
        sys.stderr.write(f"{text}\n")


def new_bar() -> Any:
    """A `rich` progress bar on stderr, not yet started; each of its tasks has a field `note` after the time
    left.
    """
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
    """Inside, a function to be told how many more rows were done; without a terminal it shows nothing."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    with new_bar() as bar:
        task = bar.add_task(name, total=rows, note="")
        yield lambda done: bar.advance(task, done)
