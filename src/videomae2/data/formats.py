"""What a manifest can be read from: Arrow tables, CSV, the released projects' lists, and folders."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from videomae2.errors import UserError

DEFAULTS: dict[str, Any] = {"path": "", "start": 0, "end": -1, "label": -1, "source": "", "stride": 0, "pattern": ""}
"""The columns a recipe reads, and what stands where a table has none."""
CLASS_NAMES = b"class_names"
VIDEO_ENDINGS = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".gif",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)
FRAME_PATTERN = "img_{:05}.jpg"
"""How the released projects name raw frames."""
LIST_COLUMNS = {("path",), ("path", "label"), ("path", "start", "total"), ("path", "total", "label")}

Found = tuple[pa.Table, tuple[str, ...]]
"""A table and its class names."""


def from_file(path: Path) -> Found:
    """Rows of a file, by its ending."""
    readers: dict[str, Callable[[Path], Found]] = {
        ".parquet": from_table,
        ".arrow": from_table,
        ".csv": from_csv,
        ".txt": from_list,
        ".list": from_list,
    }
    if path.suffix.lower() not in readers:
        raise UserError(f"{path} ends with {path.suffix!r}; a manifest is one of {', '.join(readers)} or a folder of videos")
    return readers[path.suffix.lower()](path)


def from_table(path: Path) -> Found:
    """A Parquet or Arrow table, memory-mapped."""
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".parquet":
            table = pyarrow.parquet.read_table(path, memory_map=True)
        else:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a whole {path.suffix} table: {' '.join(str(error).split())}") from None
    if "path" not in table.column_names:
        raise UserError(f"{path} has columns {', '.join(table.column_names)}, but a manifest needs one named path")
    names = (table.schema.metadata or {}).get(CLASS_NAMES, b"").decode()
    return _typed(table, str(path)), tuple(names.split("\n")) if names else ()


def write_table(table: pa.Table, path: Path, ending: str) -> None:
    """Write a table as the ending says."""
    import pyarrow.parquet

    if ending == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif ending == ".arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        raise UserError(f"{ending!r} came, but manifests are written as .parquet or .arrow")


def from_csv(path: Path) -> Found:
    """A CSV with a header; `path` is the one column it must have. Labels are numbers, or names that are then numbered."""
    import pyarrow.csv

    try:
        table = pyarrow.csv.read_csv(path)
    except pa.ArrowInvalid as error:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty; a CSV manifest starts with a header such as path,label") from None
        raise UserError(f"{path} is not a CSV table with a header: {' '.join(str(error).split())}") from None
    if "path" not in table.column_names:
        raise UserError(
            f"{path} has columns {', '.join(table.column_names)}, but a CSV manifest needs a header with one named path, "
            f"such as path,label"
        )
    names: tuple[str, ...] = ()
    if "label" in table.column_names and pa.types.is_string(table.schema.field("label").type):
        table, names = _number_labels(table, str(path))
    elif {"label", "class"} <= set(table.column_names):
        names = _named_beside(table, str(path))
    return _typed(table, str(path)), names


def from_list(path: Path) -> Found:
    """A list file of the released projects: columns parted by spaces, paths with spaces in double quotes.

    `path`, `path label`, `path 0 -1` (a whole video), `path start total` and `path total label` (frames of a folder).
    The last two cannot be told apart: a first line `# path start total` or `# path total label` says which it is.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = [(number, line) for number, line in enumerate(csv.reader(file, delimiter=" ", skipinitialspace=True), 1) if line]
    named = tuple(word.strip(",") for word in lines[0][1][1:] if word) if lines and lines[0][1][0] == "#" else ()
    rows = [(number, [word for word in line if word]) for number, line in lines if not line[0].startswith("#")]
    if not rows:
        raise UserError(f"{path} lists no video; a list file has one path a line")
    columns = named or _guess_columns(path, rows)
    if columns not in LIST_COLUMNS:
        known = "; ".join(" ".join(each) for each in sorted(LIST_COLUMNS, key=len))
        raise UserError(f"{path}: its first line names columns {' '.join(columns)}, but a list file has one of: {known}")
    table: dict[str, list[Any]] = {name: [] for name in columns}
    for number, row in rows:
        if len(row) != len(columns):
            raise UserError(
                f"{path}, line {number}: {len(row)} columns came, but {len(columns)} were expected ({' '.join(columns)}); "
                f"put a path with spaces in double quotes"
            )
        table["path"].append(row[0])
        for name, word in zip(columns[1:], row[1:], strict=True):
            table[name].append(_whole_number(path, number, name, word))
    return _typed(pa.table(_list_rows(columns, table)), str(path)), ()


def from_folder(path: Path) -> Found:
    """Videos straight in a folder, without labels; or, where there are none, class folders, numbered by sorted name."""
    videos = _videos(path, "*")
    if videos:
        return pa.table({"path": videos}), ()
    names = tuple(sorted(each.name for each in path.iterdir() if each.is_dir() and _videos(each, "**/*")))
    if not names:
        endings = " ".join(sorted(VIDEO_ENDINGS))
        raise UserError(f"{path} holds no video, neither itself nor in class folders; endings that count: {endings}")
    found = [(f"{name}/{video}", label) for label, name in enumerate(names) for video in _videos(path / name, "**/*")]
    return _typed(pa.table({"path": [video for video, _ in found], "label": [label for _, label in found]}), str(path)), names


def _videos(folder: Path, pattern: str) -> list[str]:
    found = (each for each in folder.glob(pattern) if each.suffix.lower() in VIDEO_ENDINGS and not each.name.startswith("."))
    return sorted(each.relative_to(folder).as_posix() for each in found if each.is_file())


def _guess_columns(path: Path, rows: Sequence[tuple[int, list[str]]]) -> tuple[str, ...]:
    width = len(rows[0][1])
    if width in (1, 2):
        return ("path", "label")[:width]
    if width == 3 and any(row[-1] == "-1" for _, row in rows):
        return "path", "start", "total"
    if width == 3:
        raise UserError(
            f"{path} has three columns, which may be `path start total` (pre-training) or `path total label` (frames with "
            f"labels); say which in a first line: # path start total"
        )
    raise UserError(
        f"{path}, line {rows[0][0]}: {width} columns came, but a list file has 1 to 3; put a path with spaces in double quotes"
    )


def _list_rows(columns: tuple[str, ...], table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """A list's columns as a manifest's: counts become ends, and folders get the released frame pattern."""
    rows = {"path": table["path"]}
    if "label" in columns:
        rows["label"] = table["label"]
    if "total" in columns:
        starts = table.get("start", [0] * len(table["path"]))
        videos = [Path(each).suffix.lower() in VIDEO_ENDINGS for each in table["path"]]
        # Frame folders of the released lists count frames from 1; a manifest counts from 0.
        rows["start"] = [start if video else max(start - 1, 0) for start, video in zip(starts, videos, strict=True)]
        ends = zip(rows["start"], table["total"], strict=True)
        rows["end"] = [start + total if total >= 0 else -1 for start, total in ends]
        rows["pattern"] = ["" if video else FRAME_PATTERN for video in videos]
    return rows


def _whole_number(path: Path, line: int, column: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UserError(
            f"{path}, line {line}: {word!r} came for {column}, but a whole number was expected; "
            f"put a path with spaces in double quotes"
        ) from None


def _number_labels(table: pa.Table, name: str) -> Found:
    """Labels that are names, numbered in sorted order."""
    words = table.column("label").to_pylist()
    if any(word is None or word == "" for word in words):
        raise UserError(f"{name}: row {[bool(word) for word in words].index(False)} has no label; use -1 for none throughout")
    names = tuple(sorted(set(words)))
    numbers = {word: number for number, word in enumerate(names)}
    place = table.column_names.index("label")
    return table.set_column(place, "label", pa.array([numbers[word] for word in words], pa.int64())), names


def _named_beside(table: pa.Table, name: str) -> tuple[str, ...]:
    """Class names from a `class` column that stands beside numbers; empty where some number has no name."""
    pairs = {
        (label, word) for label, word in zip(table["label"].to_pylist(), table["class"].to_pylist(), strict=True) if label >= 0
    }
    names = dict(pairs)
    if len(names) != len(pairs):
        label = next(label for label, word in pairs if names[label] != word)
        raise UserError(f"{name}: label {label} has more than one name in the class column")
    return tuple(str(names[label]) for label in range(len(names))) if set(names) == set(range(len(names))) else ()


def _typed(table: pa.Table, name: str) -> pa.Table:
    """The known columns in their types, so that a row is read without surprises; others are kept as they are."""
    for place, column in enumerate(table.column_names):
        if column in DEFAULTS:
            wanted = pa.string() if isinstance(DEFAULTS[column], str) else pa.int64()
            values = table.column(column)
            if values.null_count:
                values = (
                    values.fill_null(DEFAULTS[column]) if not pa.types.is_null(values.type) else pa.nulls(len(values), wanted)
                )
                values = values.fill_null(DEFAULTS[column])
            try:
                table = table.set_column(place, column, values.cast(wanted))
            except pa.ArrowInvalid:
                kind = "text" if wanted == pa.string() else "whole numbers"
                raise UserError(f"{name}: column {column} holds {values.type}, but {kind} were expected") from None
    return table
