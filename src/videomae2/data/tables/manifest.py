"""A manifest: an Arrow table with one row for each clip source, memory-mapped where the file allows it.

Columns (all but `path` may be absent): path; start, the first frame, from 0; end, one past the last frame, or
-1 for the end of the video; key_time or key_frame, a moment in seconds or a frame's number, about which the
clip is centred; label, a class number, -1 for none, or in a CSV a class name; source, which data
set; stride, frames between sampled frames, 0 for the setting's; pattern, empty for a video file, else the
file name of a frame such as `img_{:05}.jpg`, and then `path` is a folder and `start` and `end` are the
numbers put into the pattern. Other columns are kept.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from videomae2.data.file_names import path_column, path_text, shown_path
from videomae2.data.tables import formats
from videomae2.data.tables.class_labels import MOST_CLASSES
from videomae2.data.tables.formats import INTEGERS, MOMENTS, ROW_COLUMNS, TEXTS, conform, one_piece
from videomae2.data.tables.lists import MOST
from videomae2.data.tables.readers import CLASSES, ORIGIN, NamesFrom, map_arrow, stored_names, stored_origin
from videomae2.errors import UserError
from videomae2.files import json_text, replacing
from videomae2.settings import DataSettings


@dataclass(frozen=True)
class Row:
    """One manifest row. `path` is complete: the manifest's root and the listed path joined."""

    path: str
    start: int = 0
    end: int = -1
    label: int = -1
    source: str = ""
    stride: int = 0
    pattern: str = ""
    key_time: float = -1.0
    key_frame: int = -1


class Manifest:
    """Rows over an Arrow table: `len`, `row(i)`, `labels()`, `num_classes`, `class_names`, `names_from`.

    `names_from` says where the names came from, `first_label` which number the first class had in the list.
    `row` reads one cell of each column and copies nothing else, so a million rows cost a worker nothing: a
    memory-mapped .arrow file travels to workers as its path, any other table as its buffers.
    """

    def __init__(
        self,
        table: pa.Table,
        root: str = "",
        *,
        class_names: list[str] | None = None,
        num_classes: int | None = None,
        mapped_from: str = "",
        where: str = "the manifest",
        names_from: NamesFrom = "",
        first_label: int = 0,
    ) -> None:
        # One chunk a column, so that a cell is found by its row number alone.
        self.table, self.root, self.where = conform(table, where).combine_chunks(), root, where
        self.class_names = list(class_names) if class_names else stored_names(table)
        stored = stored_origin(table) or "given"
        self.names_from: NamesFrom = names_from or (stored if self.class_names else "")
        self.first_label = first_label
        self._mapped_from = mapped_from
        self._attach()
        self._check(num_classes)
        counted = max(int(self.labels().max(initial=-1)) + 1, len(self.class_names))
        self.num_classes = num_classes if num_classes else counted

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"Manifest({self.where}: {len(self)} rows, {self.num_classes} classes)"

    def row(self, index: int) -> Row:
        """Row `index` (from 0)."""
        cells: dict[str, Any] = {name: column[index].item() for name, column in self._numbers.items()}
        cells |= {name: column[index].as_py() for name, column in self._texts.items()}
        return Row(**{**cells, "path": self.complete(path_text(cells["path"]))})

    def complete(self, path: str) -> str:
        """A listed path with the root before it, unless it is absolute or a URL."""
        if self.root in ("", ".") or "://" in path or os.path.isabs(path):  # noqa: PTH117 - called for each clip
            return path
        return f"{self.root.rstrip('/')}/{path}"

    def labels(self) -> Int64[np.ndarray, "N"]:
        """The label of each row; -1 where there is none."""
        column = self._numbers.get("label")
        return (
            np.full(len(self), -1, dtype=np.int64) if column is None else column.astype(np.int64, copy=False)
        )

    def must_be_labelled(self, purpose: str) -> None:
        """UserError where a row has no label, which `purpose` needs."""
        missing = np.flatnonzero(self.labels() < 0)
        if len(missing):
            raise UserError(
                f"{len(missing)} of {len(self)} rows have no label (first: "
                f"{shown_path(self.row(int(missing[0])).path)})"
                f", but {purpose} needs one for each; add a label column or class folders"
            )

    def subset(self, rows: Any) -> "Manifest":
        """The manifest of these row numbers, in this order, with the same classes."""
        chosen = self.table.take(pa.array(np.asarray(rows, dtype=np.int64)))
        return Manifest(
            chosen,
            self.root,
            class_names=self.class_names,
            num_classes=self.num_classes,
            where=self.where,
            names_from=self.names_from,
            first_label=self.first_label,
        )

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in ("_numbers", "_texts")}
        # A worker maps the file itself: the pages are shared, and a million rows need not be sent.
        if self._mapped_from:
            state["table"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._mapped_from:
            self.table = conform(map_arrow(self._mapped_from), self.where)
        self._attach()

    def _attach(self) -> None:
        """Open a view of each column: NumPy over the Arrow buffer for numbers, the Arrow array for texts."""
        columns = {
            name: one_piece(self.table.column(name))
            for name in self.table.column_names
            if name in ROW_COLUMNS
        }
        self._numbers = {
            n: columns[n].to_numpy(zero_copy_only=True) for n in (*INTEGERS, *MOMENTS) if n in columns
        }
        self._texts = {n: columns[n] for n in ("path", *TEXTS) if n in columns}

    def _check(self, num_classes: int | None) -> None:
        if len(self) == 0:
            raise UserError(f"{self.where} lists nothing; it needs at least one row")
        none = np.zeros(len(self), dtype=np.int64)
        start, end = self._numbers.get("start", none), self._numbers.get("end", none - 1)
        self._refuse(start < 0, "start", "from 0 on")
        self._refuse((end != -1) & (end <= start), "end", "above start, or -1 for the video's end")
        self._refuse(self._numbers.get("stride", none) < 0, "stride", "from 0 on; 0 is the setting's")
        self._refuse(self.labels() < -1, "label", "from 0 on, or -1 for none")
        self._refuse(self.labels() >= MOST_CLASSES, "label", f"below {MOST_CLASSES}")
        self._refuse(self._numbers.get("key_frame", none) < -1, "key_frame", "from 0 on, or -1 for none")
        time = self._numbers.get("key_time", none.astype(np.float64))
        self._refuse(~((time >= 0) & np.isfinite(time)) & (time != -1), "key_time", "in seconds from 0 on")
        for name in {"start", "end", "stride", "key_frame"} & self._numbers.keys():
            self._refuse(self._numbers[name] > MOST, name, f"up to {MOST}")
        if classes := num_classes or len(self.class_names):
            rule = f"from 0 to {classes - 1}, as there are {classes} classes"
            self._refuse(self.labels() >= classes, "label", rule)

    def _refuse(self, wrong: np.ndarray, column: str, rule: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            raise UserError(
                f"{self.where}, row {row + 1}: expected {column} {rule}, got {self._numbers[column][row]}"
            )


def read_manifest(
    path: str | Path,
    root: str = "",
    num_classes: int | None = None,
    *,
    class_names: list[str] | None = None,
    list_format: Literal["auto", "pretrain", "video", "frames"] = "auto",
    pattern: str = formats.PATTERN,
    first_label: int = 0,
) -> Manifest:
    """Read a manifest (.arrow, .parquet, .csv), a released list, a folder of class folders or of videos.

    `root` is what relative paths start from: by default the manifest's own folder. `class_names` numbers
    labels that are names, as a training manifest did for the validation one. `list_format` and `pattern` say
    what the numbers of a released list mean: see `videomae2.data.tables.lists`. Labels that are numbers count
    from `first_label`, and from 0 in the manifest. UserError for anything
    missing, empty, malformed or out of range.
    """
    listing = formats.read(Path(path), class_names, list_format, pattern, first_label)
    return Manifest(
        listing.table,
        root or listing.folder,
        class_names=listing.class_names,
        num_classes=num_classes,
        mapped_from=listing.mapped_from,
        where=shown_path(str(path)),
        names_from=listing.names_from,
        first_label=listing.first_label,
    )


def read_listed(path: str, data: DataSettings) -> Manifest:
    """Read `path`, `data.train` or `data.val`, as the data settings say. UserError as `read_manifest`."""
    return read_manifest(
        path,
        data.root,
        list_format=data.list_format,
        pattern=data.frame_pattern,
        first_label=data.first_label,
    )


def write_manifest(
    path: str | Path, table: "pa.Table | Manifest | dict[str, Any]", class_names: list[str] | None = None
) -> Path:
    """Write a manifest as .arrow (memory-mapped when read), .parquet or .csv, whole or not at all.

    A Manifest is written with complete paths. A CSV keeps no class names.
    """
    path, names_from = Path(path), "given"
    if isinstance(table, Manifest):
        names_from = "given" if class_names else table.names_from
        class_names = class_names or table.class_names
        listed = map(path_text, table.table.column("path").to_pylist())
        complete = path_column([table.complete(each) for each in listed])
        table = table.table.set_column(table.table.column_names.index("path"), "path", complete)
    elif isinstance(table, dict):
        table = pa.table(table)
    if class_names:
        table = table.replace_schema_metadata({CLASSES: json_text(class_names), ORIGIN: names_from})
    with replacing(path) as temporary:
        _write(table, path.suffix, temporary)
    return path


def _write(table: pa.Table, suffix: str, temporary: Path) -> None:
    if suffix == ".arrow":
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
    elif suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, temporary)
    elif suffix == ".csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(table, temporary)
    else:
        raise UserError(
            f"expected a manifest's name to end in .arrow, .parquet or .csv, got {suffix or 'no suffix'}"
        )
