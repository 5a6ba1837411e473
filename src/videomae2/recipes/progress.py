"""What whoever watches sees of a recipe: lines, and a progress bar over manifest rows where there is a
terminal.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator

from videomae2.engine import parallel as distributed


def say(text: str) -> None:
    """A line for whoever watches the run, from the main process alone."""
    if distributed.is_main():
        sys.stderr.write(f"{text}\n")


@contextlib.contextmanager
def row_progress(name: str, rows: int) -> Iterator[Callable[[int], None]]:
    """Inside, a function to be told how many rows were done; shows time left and rows a second."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=rows)
        yield lambda done: bar.advance(task, done)
