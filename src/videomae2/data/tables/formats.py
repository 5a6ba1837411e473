"""What people keep lists of videos in, read into one Arrow table whose columns a manifest knows.

Tables: .arrow/.feather (memory-mapped), .parquet, and text whose first line names the columns, `path` among
them. Folders: each subfolder with videos is a class, and without subfolders no row has a label. Released
lists, which lists.py reads: text without a header, one clip a line. All readers know a column by its name in
any case, and labels by what they say instead of by the column's type.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from videomae2.data.file_names import is_video, kind_of, path_column, shown_path
from videomae2.data.tables import lists, readers
from videomae2.data.tables.class_labels import label_notes, number_labels
from videomae2.data.tables.lists import NUMBER, ListFormat
from videomae2.data.tables.readers import NamesFrom, one_line, read_arrow, stored_names
from videomae2.errors import UserError
from videomae2.settings import DataSettings

_log = logging.getLogger(__name__)

PATTERN = DataSettings.frame_pattern
INTEGERS = {"start": 0, "end": -1, "label": -1, "stride": 0, "key_frame": -1}
"""Columns of whole numbers and what an absent cell means."""
MOMENTS = {"key_time": -1.0}
"""Columns of seconds, and what an absent cell means."""
TEXTS = {"source": "", "pattern": ""}
ROW_COLUMNS = ("path", *INTEGERS, *MOMENTS, *TEXTS)
_NAMES = (*ROW_COLUMNS, "class")


@dataclass(frozen=True)
class Listing:
    """A table of rows, where its relative paths start from, its classes, and the file it is mapped from."""

    table: pa.Table
    folder: str
    class_names: list[str] = field(default_factory=list)
    mapped_from: str = ""
    names_from: NamesFrom = ""
    first_label: int = 0


def read(
    path: Path, class_names: list[str] | None, list_format: ListFormat, pattern: str, first_label: int = 0
) -> Listing:
    """Read whatever `path` is; UserError where it is nothing known. What is strange but usable is logged."""
    kind = kind_of(path)
    if kind == "folder":
        return _folder(path, class_names)
    if kind != "file":
        raise UserError(
            f"no manifest at {shown_path(str(path))}{f', which is a {kind}' if kind else ''}; give a .csv, "
            ".arrow, .parquet or list file, or a folder of videos"
        )
    if is_video(path):
        return Listing(pa.table({"path": path_column([str(path.absolute())])}), str(path.parent))
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; it needs at least one row")
    table, mapped = _table(path, list_format, pattern)
    named = _known_columns(table, str(path))
    labelled = number_labels(named, class_names, str(path), first_label=first_label)
    if "label" in named.column_names:
        _say(label_notes(labelled.table.column("label"), labelled.names, str(path)))
    # Workers map the file again by its path, which would lose what was changed here.
    unchanged = labelled.table is table and labelled.names == stored_names(table)
    return Listing(
        labelled.table,
        str(path.parent),
        labelled.names,
        mapped if unchanged else "",
        labelled.names_from,
        labelled.first_label,
    )


def _table(path: Path, list_format: ListFormat, pattern: str) -> tuple[pa.Table, str]:
    """The rows as the file has them, and the file's name where they are mapped from it."""
    suffix = path.suffix.lower()
    if suffix in (".arrow", ".feather"):
        return read_arrow(path), str(path)
    if suffix == ".parquet":
        return _parquet(path), ""
    text = readers.read_text(path)
    first = next((line.strip() for line in text.split("\n") if line.strip()), "")
    if not first:
        raise UserError(f"{path} is empty; it needs at least one row")
    separator = readers.separator_of(first)
    if separator is not None:
        return readers.read_csv(path, text, separator, ("start", "end", "stride")), ""
    cells = readers.header_cells(first)
    if _names_columns(first, cells):
        raise UserError(
            f"{path} has columns {shown_path(', '.join(cells))}, but none named path; its first line must be "
            "like path,label"
        )
    return lists.read_list(path, text, list_format, pattern), ""


def _names_columns(first: str, cells: list[str]) -> bool:
    """Whether a first line is a header: words between separators, no video and no number among them."""
    return len(cells) > 1 and not any(
        is_video(cell.strip("\"'")) or NUMBER.match(cell) for cell in (*cells, *first.split())
    )


def _folder(folder: Path, class_names: list[str] | None) -> Listing:
    found = lists.find_videos(folder)
    labels, notes = lists.class_labels(found, folder)
    where = shown_path(str(folder))
    _say(f"{where}: {note}" for note in (*found.notes(), *notes))
    table = pa.table({"path": path_column(found.videos)})
    if labels is None:
        return Listing(table, str(folder))
    table = table.append_column("label", pa.array(labels, pa.string()))
    labelled = number_labels(table, class_names, where, "folder")
    _say(label_notes(labelled.table.column("label"), labelled.names, where))
    return Listing(labelled.table, str(folder), labelled.names, names_from=labelled.names_from)


def _parquet(path: Path) -> pa.Table:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, memory_map=True)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({one_line(error)})") from None
    return table


def _known_columns(table: pa.Table, where: str) -> pa.Table:
    """The table with the names a manifest knows in lower case; UserError where two columns have one name."""
    names = [
        plain if (plain := name.strip().lower()) in _NAMES else name.strip() for name in table.column_names
    ]
    for name in names:
        if names.count(name) > 1:
            got = [given for given, plain in zip(table.column_names, names, strict=True) if plain == name]
            raise UserError(
                f"{where}: expected one column {shown_path(name)}, got {names.count(name)} "
                f"({shown_path(', '.join(got))}); rename or remove all but one"
            )
    return table if names == table.column_names else table.rename_columns(names)


def conform(table: pa.Table, where: str) -> pa.Table:
    """Known columns in the types they are read as; nothing is copied where they already are."""
    if "path" not in table.column_names:
        got = shown_path(", ".join(table.column_names)) or "none"
        raise UserError(
            f"{where}: expected a column named path, got columns {got}; known are {', '.join(ROW_COLUMNS)}"
        )
    for position, name in enumerate(table.column_names):
        if name not in ROW_COLUMNS:
            continue
        column, kind = table.column(name), pa.int64() if name in INTEGERS else pa.string()
        kind = pa.float64() if name in MOMENTS else kind
        if pa.types.is_large_string(column.type) and kind == pa.string():
            kind = pa.large_string()
        if pa.types.is_binary(column.type) and name == "path":  # names of files that are not UTF-8
            kind = pa.binary()
        try:
            changed = column if column.type == kind else column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(f"{where}: column {name} must hold {kind}s; {one_line(error)}") from None
        if changed.null_count:
            if name == "path":
                raise UserError(f"{where} has a row without a path; every row needs one")
            changed = changed.fill_null({**INTEGERS, **MOMENTS, **TEXTS}.get(name))
        if changed is not column:
            table = table.set_column(position, name, changed)
    return table


def one_piece(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; a column of one chunk is not copied."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _say(notes: Iterable[str]) -> None:
    """What is strange but usable, a line each on stderr: nobody is asked, and nobody should miss it."""
    for note in notes:
        _log.warning("%s", note)
