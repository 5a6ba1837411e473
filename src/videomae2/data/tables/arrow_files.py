"""Arrow files, memory-mapped: the file format, and the streaming format that Hugging Face datasets writes.

Arrow trusts the offsets in a file: reading one with a flipped bit would end the process. So a file is checked
once, when it is first read; workers map it again unchecked.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from videomae2.bounds import shown
from videomae2.errors import UserError

CLASSES = b"class_names"
"""Where a table's metadata keeps the names of its classes, as JSON."""
_ORIGIN = b"class_names_from"

_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError)
"""What damaged bytes provoke in Arrow."""


def read_arrow(path: str | Path) -> pa.Table:
    """The table of an Arrow file after a check of all its offsets; UserError where one leads astray."""
    table = map_arrow(path)
    try:
        table.validate(full=True)
    except _UNREADABLE as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); write it again") from None
    return table


def map_arrow(path: str | Path) -> pa.Table:
    """The table of an Arrow file, memory-mapped: no row is read until it is asked for."""
    try:
        with pa.memory_map(str(path)) as mapped:
            streaming = mapped.read(6) != b"ARROW1"
        source = pa.memory_map(str(path))
        reader = pa.ipc.open_stream(source) if streaming else pa.ipc.open_file(source)
        return reader.read_all()
    except _UNREADABLE as error:
        raise UserError(
            f"{path} is not a readable Arrow file ({one_line(error)}); write it with write_manifest"
        ) from None


def stored_names(table: pa.Table) -> list[str]:
    """The names of classes that the table carries; UserError where they are no list of distinct names."""
    stored = (table.schema.metadata or {}).get(CLASSES)
    if stored is None:
        return []
    try:
        names: Any = json.loads(stored)
    except (ValueError, RecursionError):
        names = None
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) and name for name in names)
        or len(set(names)) != len(names)
    ):
        got = stored[:1000].decode("utf-8", "replace")
        raise UserError(
            f"expected class_names in a table's metadata as a JSON list of distinct names, got {shown(got)}"
        )
    return names


def one_line(error: Exception) -> str:
    """An error's message without line breaks, and no longer than a message quotes."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
