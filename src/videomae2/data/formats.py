"""What people keep lists of videos in, read into one Arrow table.

Tables: .arrow/.feather (memory-mapped), .parquet, and text whose first line names the columns, `path` among them (commas).
Folders: videos directly in it are rows without labels, and so are any below it; otherwise each subfolder with videos is a
class, in sorted order.
Released lists: text without a header, one clip a line, a path and then whole numbers, parted by spaces (or commas).
A path with spaces is quoted, or ends in something that is not a number. The count of numbers says what they are:

  path                      one video, no label
  path label                one labelled video
  path start total label    frames start .. start + total - 1; total below 0 is the whole video
  path start total          as above without a label (list_format "pretrain")
  path total label          a video (total is not needed; list_format "video"), or `total` frames numbered from 1 ("frames")

The last two look alike. "auto" takes `start total` if some total is below 0, or no start is above 1; `total label` if some
label is 0; else it refuses. A path without a video's suffix, with a total, is a folder of frames named by `pattern`.
"""

import csv
import re
from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from videomae2.data.columns import CLASSES, INTEGERS, conform, map_arrow, one_line, stored_names
from videomae2.errors import UserError
from videomae2.settings import DataSettings

PATTERN = DataSettings.frame_pattern
_CONTAINERS = "mp4 avi mov mkv webm m4v mpg mpeg gif wmv flv ts mts m2ts 3gp ogv ogg asf vob mxf h264 hevc ivf"
SUFFIXES = tuple("." + name for name in _CONTAINERS.split())
ListFormat = Literal["auto", "pretrain", "video", "frames"]
_NUMBER = re.compile(r"[+-]?\d+\Z")


@dataclass(frozen=True)
class Listing:
    """A table of rows, the folder its relative paths start from, its classes, and the file it is mapped from, if any."""

    table: pa.Table
    folder: str
    class_names: list[str] = field(default_factory=list)
    mapped_from: str = ""


def read(path: Path, class_names: list[str] | None, list_format: ListFormat, pattern: str) -> Listing:
    """Read whatever `path` is; UserError where it is nothing known."""
    if path.is_dir():
        return _folder(path, class_names)
    if not path.is_file():
        raise UserError(f"no manifest at {path}; give a .csv, .arrow, .parquet or list file, or a folder of videos")
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
            raise UserError(f"{path} has columns {', '.join(cells)}, but none named path; its first line must be like path,label")
        table, mapped = _csv(path) if named else _list(path, list_format, pattern), ""
    table, names = _number_labels(table, class_names, str(path))
    return Listing(table, str(path.parent), names, mapped if names is None or names == stored_names(table) else "")


def is_video(path: Path | str) -> bool:
    """Whether the name ends as a video's does."""
    return str(path).lower().endswith(SUFFIXES)


def _names_columns(first: str, cells: list[str]) -> bool:
    """Whether a first line is a header: words between commas, and neither a video nor a number among them."""
    return len(cells) > 1 and not any(is_video(cell.strip("\"'")) or _NUMBER.match(cell) for cell in (*cells, *first.split()))


def _folder(folder: Path, class_names: list[str] | None) -> Listing:
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if is_video(p) and not p.name.startswith("."))
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
                return f", line {reader.line_num}: {len(cells)} cells, but the header names {len(header)} columns"
            for name, cell in zip(header, cells, strict=False):
                if name in INTEGERS and name != "label" and cell and not _NUMBER.match(cell.strip()):
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
        raise UserError(f"{where}: label {unknown[0]!r} is none of the {len(names)} known classes ({', '.join(names[:5])} ...)")
    numbers = pc.fill_null(pc.index_in(column, value_set=pa.array(names, pa.string())).cast(pa.int64()), -1)
    return table.set_column(table.column_names.index("label"), "label", numbers), names


def _names_beside(table: pa.Table, where: str) -> list[str]:
    """Names from a column `class` that stands beside numbers; none where a number below the largest has no name."""
    if "class" not in table.column_names:
        return []
    pairs = table.select(["label", "class"]).group_by(["label", "class"]).aggregate([]).to_pylist()
    known = sorted((pair["label"], str(pair["class"])) for pair in pairs if pair["label"] is not None and pair["label"] >= 0)
    for (label, name), (other, second) in pairwise(known):
        if label == other:
            raise UserError(f"{where}: label {label} has two names in column class, {name!r} and {second!r}; give it one")
    return [name for _, name in known] if [label for label, _ in known] == list(range(len(known))) else []


def _must_be_text(path: Path) -> None:
    with path.open("rb") as file:
        if b"\0" in file.read(4096):
            raise UserError(f"{path} is neither a video by its name nor a text; give a .csv, .arrow, .parquet or list file")


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        return next((line.strip() for line in lines if line.strip()), "")


def _list(path: Path, list_format: ListFormat, pattern: str) -> pa.Table:
    places, paths, tails = _split_lines(path)
    if not paths:
        raise UserError(f"{path} is empty; it needs at least one row")
    if not tails.shape[1]:
        return pa.table({"path": paths})
    if tails.shape[1] == 3 and (tails[:, 1] == 0).any():
        raise UserError(f"{path}, line {places[int(np.argmax(tails[:, 1] == 0))]}: a clip of 0 frames; give -1 for a whole video")
    if tails.shape[1] == 1:
        return pa.table({"path": paths, "label": tails[:, 0]})
    if tails.shape[1] == 3:
        return _spans(paths, tails, pattern).append_column("label", pa.array(tails[:, 2]))
    if _is_pretrain(tails, list_format, path):
        return _spans(paths, tails, pattern)
    folders = np.array([list_format == "frames" or not is_video(p) for p in paths])
    starts, ends = np.where(folders, 1, 0), np.where(folders, 1 + tails[:, 0], -1)
    patterns = np.where(folders, pattern, "")
    return pa.table({"path": paths, "start": starts, "end": ends, "label": tails[:, 1], "pattern": patterns})


def _spans(paths: list[str], tails: np.ndarray, pattern: str) -> pa.Table:
    """Rows of `start total`: frames start .. start + total - 1, or the whole video where total is below 0."""
    start, total = tails[:, 0], tails[:, 1]
    whole = total < 0
    folders = np.array([not is_video(path) for path in paths]) & ~whole
    spans = {"start": np.where(whole, 0, start), "end": np.where(whole, -1, start + total)}
    return pa.table({"path": paths, **spans, "pattern": np.where(folders, pattern, "")})


def _is_pretrain(tails: np.ndarray, list_format: ListFormat, path: Path) -> bool:
    if list_format != "auto":
        return list_format == "pretrain"
    first, second = tails[:, 0], tails[:, 1]
    if (second < 0).any() or (first <= 1).all():
        return True
    if (second == 0).any():
        return False
    raise UserError(
        f"{path} has two numbers after each path, and they may be `start total` or `total label`; write a CSV whose first line "
        "is path,start,end or path,label, or say which they are: --data.list_format pretrain (start total), video or frames "
        "(total label); with data show and data check, --list-format"
    )


def _split_lines(path: Path) -> tuple[list[int], list[str], np.ndarray]:
    """Line numbers, paths, and the whole numbers after each path, [N, K]; K is settled by the first line."""
    places, paths, numbers, separator, count = [], [], array("q"), None, -1
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for place, line in enumerate(lines, start=1):
            text = line.strip()
            if not text or text[0] == "#":
                continue
            if count < 0:
                separator, count = _layout(text, f"{path}, line {place}")
            name, *cells = text.rsplit(separator, count) if count else (text,)
            try:
                after = [int(cell) for cell in cells]
            except ValueError:
                after = []
            if len(after) != count:
                expected = f"a path and {count} whole numbers, as in its first line"
                raise UserError(f"{path}, line {place}: {text[:80]!r} came, but expected {expected}; quote a path with spaces")
            numbers.extend(after)
            places.append(place)
            paths.append(name[1:-1].strip() if name[:1] in ('"', "'") and name[-1] == name[0] else name)
    return places, paths, np.array(numbers, dtype=np.int64).reshape(len(paths), max(count, 0))


def _layout(text: str, where: str) -> tuple[str | None, int]:
    """The separator of a list and the count of numbers after each path, from its first line."""
    separator = "," if _count_numbers(text, None) == 0 and _count_numbers(text, ",") else None
    count = _count_numbers(text, separator)
    if count > 3:
        raise UserError(f"{where}: {count} numbers after the path; at most start, total and label are known")
    return separator, count


def _count_numbers(text: str, separator: str | None) -> int:
    """Whole numbers at the end of a line; the first word is always the path."""
    after = text
    if text[0] in "\"'" and text.find(text[0], 1) > 0:
        after = "path " + text[text.find(text[0], 1) + 1 :] if separator is None else text
    cells = after.split(separator)
    count = 0
    while count < len(cells) - 1 and _NUMBER.match(cells[-1 - count].strip()):
        count += 1
    return count


__all__ = ["CLASSES", "PATTERN", "SUFFIXES", "ListFormat", "Listing", "conform", "is_video", "read"]
