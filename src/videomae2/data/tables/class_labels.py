"""Labels: which are numbers and which are names, and how names are numbered.

In a column, whole numbers as people write them (`0`, `12`, and pandas' `12.0`) are class numbers whatever the
column's type, so that a CSV, a Parquet and an Arrow file of the same rows mean the same. Anything else
(`007`, `true`, a date) makes names of all labels, as the names of class folders always are.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from videomae2.bounds import shown
from videomae2.data.tables.lists import sorted_classes
from videomae2.data.tables.readers import NamesFrom, one_line, stored_names, stored_origin
from videomae2.errors import UserError

MOST_CLASSES = 10_000_000
"""No data set has as many classes; a larger label is a slip, and a head of that width fits no memory."""

_NUMBERS = r"^-?(0|[1-9][0-9]*)(\.0*)?$"
_SEVERAL = re.compile(r"[\[({]?\s*-?\d+([,;|\s]+-?\d+)+\s*[\])}]?\Z")


@dataclass(frozen=True)
class Labelled:
    """A table whose labels are numbers from 0, the names of its classes, and where these came from.

    first_label: the number that the first class had in the list.
    """

    table: pa.Table
    names: list[str] = field(default_factory=list)
    names_from: NamesFrom = ""
    first_label: int = 0


def number_labels(
    table: pa.Table,
    given: list[str] | None,
    where: str,
    names_from: NamesFrom = "given",
    first_label: int = 0,
) -> Labelled:
    """Labels become numbers from 0: names by their places in `given`, or in their own order.

    `names_from` says what the texts in the table are: of class folders, all are names. Numbers count from
    `first_label`, which says nothing about names. UserError for a name that is not in `given`, and for a
    number below the first.
    """
    if "label" not in table.column_names:
        names = given or stored_names(table)
        return Labelled(table, names, stored_origin(table) or "given" if names else "")
    column = table.column("label")
    if not pa.types.is_integer(column.type):
        column = _plain(column, where)
    if pa.types.is_string(column.type):
        column = _trimmed(column, given or []) if names_from == "given" else column
        numbers = _as_numbers(column, given, where) if names_from == "given" else None
        if numbers is None:
            return _named(table, column, given, where, names_from)
        column = numbers
    if first_label:
        column = _counted_from(first_label, column, where)
    # A mapped table stays as it is where its labels do.
    if first_label or not pa.types.is_integer(table.schema.field("label").type):
        table = _with_labels(table, column)
    names = given or stored_names(table) or _names_beside(table, where)
    return Labelled(table, names, (stored_origin(table) or "given") if names else "", first_label)


def label_notes(numbers: "pa.ChunkedArray | pa.Array", names: list[str], where: str) -> list[str]:
    """What is suspicious about labels though they can be used, in sentences."""
    present = sorted(n for n in pc.unique(numbers).to_pylist() if n is not None and n >= 0)
    if not present:
        return []
    if not names and present[0] == 1 and present[1:]:
        return [
            f"{where}: labels run from 1 to {present[-1]} and none is 0, so class 0 would be an empty class; "
            "labels count from 0: if these count from 1, set --data.first_label 1"
        ]
    if len(present) == 1:
        name = f" ({shown(names[present[0]])})" if present[0] < len(names) else ""
        return [f"{where}: all labels are the same class, {present[0]}{name}; a classifier needs two or more"]
    return []


def _plain(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Labels as int64 or as strings: what a column of any type says."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.int64())
    try:
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            return column.cast(pa.int64())
        # True, dates and times are names that a table's writer has taken for something else.
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{where}: column label must hold whole numbers or names, got {kind}; {one_line(error)}"
        ) from None


def _trimmed(column: pa.ChunkedArray, given: list[str]) -> pa.ChunkedArray:
    """The same texts without spaces around them; the empty ones and -1 become absent."""
    bare = pc.utf8_trim_whitespace(column)
    none = pa.array({"", "-1"} - set(given), pa.string())
    absent = pc.fill_null(pc.is_in(bare, value_set=none), True)
    return pc.if_else(absent, pa.scalar(None, pa.string()), bare)


def _as_numbers(column: pa.ChunkedArray, given: list[str] | None, where: str) -> pa.ChunkedArray | None:
    """The whole numbers that texts write; None where one is a name, or all are among the given names."""
    present = [text for text in pc.unique(column).to_pylist() if text is not None]
    if given and set(present) <= set(given):
        return None
    several = next((text for text in present if _SEVERAL.match(text.strip())), None)
    if several is not None:
        raise UserError(f"{where}: label {shown(several)} is several numbers; each row has one class")
    numeric = [bool(re.match(_NUMBERS, text)) for text in present]
    if not all(numeric):
        return None
    try:
        return pc.replace_substring_regex(column, r"\.0*$", "").cast(pa.int64())
    except pa.ArrowInvalid:
        largest = max(present, key=len)
        raise UserError(f"{where}: label {shown(largest)} is beyond any class number") from None


def _named(
    table: pa.Table, column: pa.ChunkedArray, given: list[str] | None, where: str, names_from: NamesFrom
) -> Labelled:
    present = {name for name in pc.unique(column).to_pylist() if name}
    names = given or sorted_classes(present)
    known = set(names)
    if unknown := sorted(present - known):
        raise UserError(
            f"{where}: label {shown(unknown[0])} is none of the {len(names)} known classes "
            f"({', '.join(name[:40] for name in names[:5])} ...)"
        )
    numbers = pc.index_in(column, value_set=pa.array(names, pa.string())).cast(pa.int64())
    return Labelled(_with_labels(table, numbers), names, names_from)


def _counted_from(first: int, column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Numbers that count from `first` as numbers from 0; -1 stays. UserError where one lies between."""
    numbers = column.cast(pa.int64())
    labelled = pc.fill_null(pc.greater_equal(numbers, 0), False)
    low = pc.min(pc.filter(numbers, labelled)).as_py()
    if low is not None and low < first:
        raise UserError(
            f"{where}: expected labels from {first} on, since data.first_label is {first}, got {low}; set "
            "--data.first_label 0 (in an evaluation with --no_as_trained), or mend the list"
        )
    return pc.if_else(labelled, pc.subtract(numbers, first), numbers)


def _with_labels(table: pa.Table, numbers: pa.ChunkedArray) -> pa.Table:
    position = table.column_names.index("label")
    return table.set_column(position, "label", pc.fill_null(numbers, -1))


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
                f"{where}: label {label} has two names in column class, {shown(name)} and {shown(second)}; "
                "give it one"
            )
    return [name for _, name in known] if [label for label, _ in known] == list(range(len(known))) else []
