"""The columns a manifest knows, and an Arrow table brought to their types without copying what already
fits.
"""

import json
from pathlib import Path

import pyarrow as pa

from videomae2.errors import UserError

INTEGERS = {"start": 0, "end": -1, "label": -1, "stride": 0}
"""Columns of whole numbers and what an absent cell means."""
TEXTS = {"source": "", "pattern": ""}
ROW_COLUMNS = ("path", *INTEGERS, *TEXTS)
CLASSES = b"class_names"
"""Where a table's metadata keeps the names of its classes, as JSON."""


def map_arrow(path: str | Path) -> pa.Table:
    """The table of an Arrow file, memory-mapped: no row is read until it is asked for."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} is not a readable Arrow file ({one_line(error)}); write it with write_manifest"
        ) from None


def conform(table: pa.Table, where: str) -> pa.Table:
    """Known columns in the types they are read as; nothing is copied where they already are."""
    if "path" not in table.column_names:
        came = ", ".join(table.column_names) or "none"
        raise UserError(
            f"{where} has no column named path (its columns: {came}); known columns are "
            f"{', '.join(ROW_COLUMNS)}"
        )
    for position, name in enumerate(table.column_names):
        if name not in ROW_COLUMNS:
            continue
        column, kind = table.column(name), pa.int64() if name in INTEGERS else pa.string()
        if pa.types.is_large_string(column.type) and kind == pa.string():
            kind = pa.large_string()
        try:
            changed = column if column.type == kind else column.cast(kind)
            if changed.null_count:
                if name == "path":
                    raise UserError(f"{where} has a row without a path; every row needs one")
                changed = changed.fill_null(INTEGERS.get(name, TEXTS.get(name)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(f"{where}: column {name} must hold {kind}s; {one_line(error)}") from None
        if changed is not column:
            table = table.set_column(position, name, changed)
    return table


def one_piece(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; a column of one chunk is not copied."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def stored_names(table: pa.Table) -> list[str]:
    """The names of classes that the table carries."""
    return json.loads((table.schema.metadata or {}).get(CLASSES, b"[]"))


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())
