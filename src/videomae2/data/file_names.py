"""Names of files: which are videos, what lies behind them, and how one that is not UTF-8 is kept and shown.

A file system keeps bytes. Python reads those that are not UTF-8 as lone surrogates, which neither Arrow nor a
terminal takes: a column of such paths holds bytes, and messages show them escaped.
"""

import os
import stat
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pyarrow as pa

from videomae2.bounds import shortened
from videomae2.errors import UserError

_CONTAINERS = (
    "mp4 avi mov mkv webm m4v mpg mpeg gif wmv flv ts mts m2ts 3gp ogv ogg asf vob mxf h264 hevc ivf"
)
SUFFIXES = tuple("." + name for name in _CONTAINERS.split())
"""What the names of videos end in."""

_KINDS = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def is_video(path: Path | str) -> bool:
    """Whether the name ends as a video's does."""
    return str(path).lower().endswith(SUFFIXES)


def kind_of(path: Path | str) -> str:
    """What lies at a path, links followed: file, folder, named pipe, socket, device; empty for nothing.

    A name that no file can have (too long, a NUL in it) names nothing.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - called for each clip
    except (OSError, ValueError):
        return ""
    return next((name for holds, name in _KINDS if holds(mode)), "special file")


def printable(name: str) -> str:
    """A name as a terminal and JSON take it: bytes that are not UTF-8 are escaped, a backslash and xe9."""
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shown_path(name: str) -> str:
    """A path as a message quotes it: printable, and its middle left out where it is very long."""
    return shortened(printable(name))


def path_column(paths: Sequence[str]) -> pa.Array:
    """Paths as an Arrow column: strings, or bytes where a name is not UTF-8."""
    try:
        return pa.array(paths, pa.string())
    except UnicodeEncodeError:
        return pa.array([os.fsencode(path) for path in paths], pa.binary())


def path_text(cell: str | bytes) -> str:
    """A cell of such a column as Python opens it."""
    return os.fsdecode(cell) if isinstance(cell, bytes) else cell


def must_be_ours(
    path: Path, endings: Collection[str], is_ours: Callable[[Path], bool], what: str, otherwise: str
) -> None:
    """UserError for a name that ends in none of `endings`, and where something is there that is not ours.

    `what` is to be written; `otherwise` ends the sentence about a file that `is_ours` does not know.
    """
    name = shown_path(str(path))
    if path.suffix.lower() not in endings:
        other = shown_path(str(path.with_suffix(next(iter(endings)))))
        raise UserError(f"expected {what} to be written as {', '.join(endings)}, got {name}; try {other}")
    kind = kind_of(path)
    if kind and not (kind == "file" and is_ours(path)):
        raise UserError(f"{name} is there and {otherwise}")
