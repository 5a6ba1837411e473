"""Files that hold tables: Arrow files, memory-mapped, in both formats; and text, whatever parts its cells.

Arrow trusts the offsets in a file: reading one with a flipped bit would end the process. So a file is checked
once, when it is first read; workers map it again unchecked. Of text, the encoding and the separator are found
out, and the columns handed on as Arrow's.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from videomae2.bounds import shown
from videomae2.errors import UserError

CLASSES = b"class_names"
"""Where a table's metadata keeps the names of its classes, as JSON."""
ORIGIN = b"class_names_from"
"""Where it keeps where these names came from."""
NamesFrom = Literal["", "given", "folder"]
"""Where the names of classes came from: nowhere (labels are numbers), a table or the caller, or folders."""

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
    """The names of classes that the table carries: ours, or those of a Hugging Face `ClassLabel`.

    UserError where they are no list of distinct names.
    """
    stored = (table.schema.metadata or {}).get(CLASSES)
    if stored is None:
        return _class_label_names(table)
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


def stored_origin(table: pa.Table) -> NamesFrom:
    """Where the stored names came from, as far as the table says."""
    stored = (table.schema.metadata or {}).get(ORIGIN, b"")
    return "folder" if stored == b"folder" else "given" if stored == b"given" else ""


def _class_label_names(table: pa.Table) -> list[str]:
    """The names of the feature `label` in what the `datasets` library writes beside a table; else none."""
    try:
        noted: Any = json.loads((table.schema.metadata or {}).get(b"huggingface", b"null"))
        label = noted["info"]["features"]["label"]
        names = label["names"] if label["_type"] == "ClassLabel" else []
    except (ValueError, RecursionError, TypeError, KeyError):  # another's note: nothing is promised about it
        return []
    distinct = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    return names if distinct and len(set(names)) == len(names) else []


def one_line(error: Exception) -> str:
    """An error's message without line breaks, and no longer than a message quotes."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_MOST_BYTES = 1 << 30
"""A longer text is no list of videos, or one to keep as .arrow."""
_MOST_EXPANSION, _EXPANDED_BYTES = 200, 64 << 20
"""How much a .gz may hold for each of its bytes, once it holds so much: zeros are packed a thousandfold."""
_BYTES_AT_ONCE = 8 << 20
_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
"""How texts in other encodings begin."""
_ROWS_AT_ONCE = 1 << 16
_TEXTS = ("path", "label", "source", "pattern", "class")


def read_text(path: Path) -> str:
    """A file as text, without the mark of its encoding; UserError where it is none, or not UTF-8."""
    data = _bytes(path)
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            raise UserError(f"{path} is a text in {encoding}, expected UTF-8; {_convert(encoding)}")
    if b"\0" in data[:4096]:
        raise UserError(
            f"{path} is neither a video by its name nor a text; try a .csv, .arrow, .parquet or list file"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        near = data[max(error.start - 20, 0) : error.end + 20].decode("latin-1").strip()
        raise UserError(
            f"{path}, line {line}: expected UTF-8, got a byte {data[error.start]:#04x}, as Latin-1 "
            f"(Windows-1252) has it in {shown(near)}; {_convert('WINDOWS-1252')}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def separator_of(header: str) -> str | None:
    """The separator by which a first line has a column `path`; None where it has none by any."""
    return next((each for each in SEPARATORS if "path" in _cells(header, each)), None)


def header_cells(line: str) -> list[str]:
    """The cells of a first line by the separator that parts it into most, in lower case."""
    return max((_cells(line, each) for each in SEPARATORS), key=len)


def read_csv(path: Path, text: str, separator: str, integers: tuple[str, ...]) -> pa.Table:
    """The rows below a header; `integers` are columns of whole numbers. UserError for a wrong line."""
    reader = csv.reader(io.StringIO(_without_spaces(text, separator)), delimiter=separator)
    chunks: list[list[pa.Array]] = []
    try:
        header = next(cells for cells in reader if any(cells))
        known = [name.strip().lower() for name in header]
        rows = _rows(reader, len(header), path)
        # Arrow's own reader guesses types (7 of 007, a moment of a date), cannot say in which line a fault
        # lies, and its threads have been seen to end the process where an error follows.
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            chunks.append([pa.array(cells, pa.string()) for cells in zip(*batch, strict=True)])
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {one_line(error)}") from None
    columns = []
    for number, name in enumerate(known):
        column = pa.chunked_array([chunk[number] for chunk in chunks], pa.string())
        if name in integers:
            column = _whole_numbers(column, name, path, text, separator)
        columns.append(column if name in (*_TEXTS, *integers) else _guessed(column))
    return pa.Table.from_arrays(columns, names=header)


def _rows(reader: Any, num_columns: int, path: Path) -> Iterator[list[str]]:
    """The rows below the header, without empty lines; UserError where one has too many or too few cells."""
    for cells in reader:
        if len(cells) == num_columns and (num_columns > 1 or cells[0]):
            yield cells
        elif any(cells):
            raise UserError(
                f"{path}, line {reader.line_num}: {len(cells)} cells, but the header names {num_columns} "
                "columns; quote a cell that holds the separator"
            )


def _bytes(path: Path) -> bytes:
    """What a file holds, unpacked, read in pieces: asked for at once, the most would be set aside at once."""
    packed = path.suffix.lower() == ".gz"
    most = _MOST_BYTES
    data = bytearray()
    try:
        if packed:
            most = min(most, max(_EXPANDED_BYTES, _MOST_EXPANSION * path.stat().st_size))
        with gzip.open(path) if packed else path.open("rb") as file:
            while len(data) <= most and (piece := file.read(_BYTES_AT_ONCE)):
                data += piece
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path} holds more than {_MOST_BYTES >> 30} GiB of text; write it as .arrow")
    if len(data) > most:
        raise UserError(
            f"{path} expands to more than {_MOST_EXPANSION} times its size, as no list of videos does; give "
            "it unpacked, or as .arrow"
        )
    return bytes(data)


def _convert(encoding: str) -> str:
    return f"convert it with iconv -f {encoding} -t UTF-8, or save it as UTF-8"


def _cells(line: str, separator: str) -> list[str]:
    return [cell.lower() for cell in _split(line, separator)]


def _split(line: str, separator: str) -> list[str]:
    try:
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:  # a cell beyond Python's limit
        return [line[:200]]
    return [cell.strip() for cell in cells]


def _without_spaces(text: str, separator: str) -> str:
    """The text without spaces around cells, except in quotes."""
    if " " not in text and (separator == "\t" or "\t" not in text):
        return text  # most lists, spared a pass
    parts = re.escape(separator)
    blank = "[ ]*" if separator == "\t" else r"[ \t]*"
    # A quoted cell is taken whole where it ends at a separator; a quote inside a bare cell opens nothing.
    pattern = rf'{blank}({parts}|\n|\A){blank}("(?:[^"]|"")*"(?={blank}(?:{parts}|\n|\Z)))?'
    return re.sub(pattern, r"\1\2", text).rstrip(" ")


def _whole_numbers(
    column: pa.ChunkedArray, name: str, path: Path, text: str, separator: str
) -> pa.ChunkedArray:
    """A column of texts as int64; an empty cell is absent."""
    bare = pc.replace_substring_regex(column, r"^\+|\.0*$", "")
    given = pc.not_equal(bare, "")
    wrong = pc.and_(given, pc.invert(pc.match_substring_regex(bare, r"^-?[0-9]{1,18}$")))
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        reader = csv.reader(io.StringIO(text), delimiter=separator)
        line = next(islice((reader.line_num for cells in reader if any(cells)), row + 1, None), 0)
        raise UserError(
            f"{path}, line {line}: {name} is {shown(column[row].as_py())}, not a whole number of at most 18 "
            "digits"
        )
    return pc.if_else(given, bare, pa.scalar(None, pa.string())).cast(pa.int64())


def _guessed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that only its owner knows: numbers where all cells are, else texts."""
    for kind in (pa.int64(), pa.float64()):
        try:
            return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column).cast(kind)
        except pa.ArrowInvalid:
            continue
    return column
