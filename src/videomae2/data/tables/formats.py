"""What people keep lists of videos in, read into one Arrow table whose columns a manifest knows.

Tables: .arrow/.feather (memory-mapped), .parquet, and text whose first line names the columns, `path` among
them (commas). Folders: videos directly in it are rows without labels, and so are any below it; otherwise each
subfolder with videos is a class, in sorted order. Released lists, which lists.py reads: text without a
header, one clip a line.
"""

import csv
import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from videomae2.data.tables.lists import NUMBER, SUFFIXES, ListFormat, is_video, read_list
from videomae2.errors import UserError
from videomae2.settings import DataSettings

PATTERN = DataSettings.frame_pattern
INTEGERS = {"start": 0, "end": -1, "label": -1, "stride": 0}
"""Columns of whole numbers and what an absent cell means."""
TEXTS = {"source": "", "pattern": ""}
ROW_COLUMNS = ("path", *INTEGERS, *TEXTS)
CLASSES = b"class_names"
"""Where a table's metadata keeps the names of its classes, as JSON."""


@dataclass(frozen=True)
class Listing:
    """A table of rows, where its relative paths start from, its classes, and the file it is mapped from."""

    table: pa.Table
    folder: str
    class_names: list[str] = field(default_factory=list)
    mapped_from: str = ""


def read(path: Path, class_names: list[str] | None, list_format: ListFormat, pattern: str) -> Listing:
    """Read whatever `path` is; UserError where it is nothing known."""
    if path.is_dir():
        return _folder(path, class_names)
    if not path.is_file():
        raise UserError(
            f"no manifest at {path}; give a .csv, .arrow, .parquet or list file, or a folder of videos"
        )
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return Listing(pa.table({"path": [str(path.absolute())]}), str(path.parent))
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; it needs at least one row")
    if suffix in (".arrow", ".feather"):
        table, mapped = map_arrow(path), str(path)
    elif suffix == ".parquet":
        table, mapped = _parquet(path), ""
    else:
        _must_be_text(path)
        first = _first_line(path)
        cells = [cell.strip().lower() for cell in next(csv.reader([first]))]
        named = "path" in cells
        if not named and _names_columns(first, cells):
            raise UserError(
                f"{path} has columns {', '.join(cells)}, but none named path; its first line must be like "
                "path,label"
            )
        table, mapped = _csv(path) if named else read_list(path, list_format, pattern), ""
    table, names = _number_labels(table, class_names, str(path))
    # Workers map the file again by its path, which would lose labels or names that were given here.
    return Listing(
        table, str(path.parent), names, mapped if names is None or names == stored_names(table) else ""
    )


def _names_columns(first: str, cells: list[str]) -> bool:
    """Whether a first line is a header: words between commas, and neither a video nor a number among them."""
    return len(cells) > 1 and not any(
        is_video(cell.strip("\"'")) or NUMBER.match(cell) for cell in (*cells, *first.split())
    )


def _folder(folder: Path, class_names: list[str] | None) -> Listing:
    found = sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if is_video(p) and not p.name.startswith(".")
    )
    if not found:
        raise UserError(f"{folder} holds no video file (looked for {', '.join(SUFFIXES[:6])} ...)")
    if any("/" not in name for name in found):
        return Listing(pa.table({"path": found}), str(folder))
    table = pa.table({"path": found, "label": [name.split("/", 1)[0] for name in found]})
    table, names = _number_labels(table, class_names, str(folder))
    return Listing(table, str(folder), names)


def _parquet(path: Path) -> pa.Table:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({one_line(error)})") from None


def _csv(path: Path) -> pa.Table:
    import pyarrow.csv

    # The label's type is left to be found: it may be a number or a name.
    numbers = {name: pa.int64() for name in INTEGERS if name != "label"}
    options = pyarrow.csv.ConvertOptions(
        column_types={"path": pa.string(), "source": pa.string(), "pattern": pa.string(), **numbers},
        strings_can_be_null=False,
    )
    try:
        table = pyarrow.csv.read_csv(path, convert_options=options)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}{_faulty_line(path)}: {one_line(error)}") from None
    table = table.rename_columns([_known(name) for name in table.column_names])
    empty = "label" in table.column_names and pa.types.is_null(table.column("label").type)
    return table.drop_columns(["label"]) if empty else table


def _known(name: str) -> str:
    plain = name.strip().lower()
    return plain if plain in ("path", "source", "pattern", *INTEGERS) else name


def _faulty_line(path: Path) -> str:
    """The line a table reader stumbled over: too many or few cells, or a word where a number belongs."""
    with path.open(newline="", encoding="utf-8", errors="replace") as lines:
        reader = csv.reader(lines)
        header = [_known(cell) for cell in next(reader)]
        for cells in reader:
            if cells and len(cells) != len(header):
                found = f"{len(cells)} cells, but the header names {len(header)} columns"
                return f", line {reader.line_num}: {found}"
            for name, cell in zip(header, cells, strict=False):
                if name in INTEGERS and name != "label" and cell and not NUMBER.match(cell.strip()):
                    return f", line {reader.line_num}: {name} is {cell!r}, not a whole number"
    return ""


def _number_labels(table: pa.Table, names: list[str] | None, where: str) -> tuple[pa.Table, list[str]]:
    """Labels that are names become numbers: places in `names`, or in their own sorted order."""
    if "label" not in table.column_names:
        return table, names or []
    column = table.column("label")
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return table, names or stored_names(table) or _names_beside(table, where)
    column = column.cast(pa.string())
    present = sorted(name for name in pc.unique(column).to_pylist() if name)
    names = names or present
    if unknown := [name for name in present if name not in set(names)]:
        raise UserError(
            f"{where}: label {unknown[0]!r} is none of the {len(names)} known classes "
            f"({', '.join(names[:5])} ...)"
        )
    numbers = pc.fill_null(pc.index_in(column, value_set=pa.array(names, pa.string())).cast(pa.int64()), -1)
    return table.set_column(table.column_names.index("label"), "label", numbers), names


def _names_beside(table: pa.Table, where: str) -> list[str]:
    """Names from a column `class` beside the numbers; none where a number below the largest has no name."""
    if "class" not in table.column_names:
        return []
    pairs = table.select(["label", "class"]).group_by(["label", "class"]).aggregate([]).to_pylist()
    known = sorted(
        (pair["label"], str(pair["class"]))
        for pair in pairs
        if pair["label"] is not None and pair["label"] >= 0
    )
    for (label, name), (other, second) in pairwise(known):
        if label == other:
            raise UserError(
                f"{where}: label {label} has two names in column class, {name!r} and {second!r}; give it one"
            )
    return [name for _, name in known] if [label for label, _ in known] == list(range(len(known))) else []


def _must_be_text(path: Path) -> None:
    with path.open("rb") as file:
        if b"\0" in file.read(4096):
            raise UserError(
                f"{path} is neither a video by its name nor a text; try a .csv, .arrow, .parquet or list file"
            )


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        return next((line.strip() for line in lines if line.strip()), "")


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
        got = ", ".join(table.column_names) or "none"
        raise UserError(
            f"{where}: expected a column named path, got columns {got}; known are {', '.join(ROW_COLUMNS)}"
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
    names: list[str] = json.loads((table.schema.metadata or {}).get(CLASSES, b"[]"))
    return names


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())
