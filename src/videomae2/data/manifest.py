"""A manifest is a table with one row for each clip source; everything a recipe reads starts from one."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from videomae2.data import formats
from videomae2.data.formats import CLASS_NAMES, DEFAULTS
from videomae2.errors import UserError


@dataclass(frozen=True)
class Row:
    """One clip source.

    `path` is a video file, a URL that fsspec knows, or a folder of frames where `pattern` names them ("img_{:05}.jpg",
    counted from 1). `start` and `end` are frames, end excluded, -1 to the end. `label` is -1 where there is none; `stride`
    is 0 where the settings decide.
    """

    path: str
    start: int = 0
    end: int = -1
    label: int = -1
    source: str = ""
    stride: int = 0
    pattern: str = ""


class Manifest:
    """The rows of a manifest, in Arrow memory: a million rows cost a worker process nothing that grows with its reads.

    `name` is where it came from, `root` the folder that relative paths start from, `class_names` one name for each label
    (empty where the labels have none). Columns beyond Row's are kept in `table`.
    """

    def __init__(self, table: pa.Table, name: str, root: str = "", class_names: tuple[str, ...] = ()) -> None:
        self.table = table
        self.name = name
        self.root = root
        self.class_names = class_names

    def __len__(self) -> int:
        return self.table.num_rows

    def __repr__(self) -> str:
        classes = f", {len(self.class_names)} named classes" if self.class_names else ""
        return f"Manifest({self.name}: {len(self):,} rows{classes})"

    def row(self, number: int) -> Row:
        """Row `number`, its path resolved. IndexError beyond the end."""
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of a manifest with {len(self)} rows")
        values = {name: self.table.column(name)[number].as_py() for name in self._present}
        values["path"] = self._resolved(values["path"])
        return Row(**values)

    def labels(self) -> Int[np.ndarray, "M"]:
        """Every row's label, -1 where it has none."""
        if "label" not in self.table.column_names:
            return np.full(len(self), -1, np.int64)
        return self.table.column("label").to_numpy().astype(np.int64, copy=False)

    @property
    def num_classes(self) -> int:
        """How many classes the names or the labels speak of."""
        return max(len(self.class_names), int(self.labels().max(initial=-1)) + 1)

    @cached_property
    def _present(self) -> list[str]:
        return [name for name in DEFAULTS if name in self.table.column_names]

    def _resolved(self, path: str) -> str:
        return path if not self.root or "://" in path or os.path.isabs(path) else os.path.join(self.root, path)  # noqa: PTH117, PTH118


def read_manifest(path: str | Path, root: str = "", num_classes: int | None = None) -> Manifest:
    """Read a manifest from a .parquet, .arrow, .csv, a list file (.txt, .list), a folder of class folders or of videos.

    Relative paths start from `root`, or else from the file's own folder. The formats are told in docs/data-formats.md.
    UserError: nothing there, no rows, a line that cannot be read, a label outside -1 ... num_classes - 1.
    """
    source = Path(path)
    if not source.exists():
        raise UserError(f"{source} does not exist; give a manifest (.parquet, .arrow, .csv, .txt) or a folder of videos")
    if source.is_dir():
        table, names = formats.from_folder(source)
    else:
        table, names = formats.from_file(source)
    if table.num_rows == 0:
        raise UserError(f"{source} lists no video; a manifest needs at least one row")
    manifest = Manifest(table, str(source), root or str(source if source.is_dir() else source.parent), names)
    _check_labels(manifest, num_classes)
    return manifest


def write_manifest(path: str | Path, rows: "pa.Table | dict[str, Any]", class_names: tuple[str, ...] = ()) -> Path:
    """Write a table (or columns) as .parquet or .arrow, whole or not at all; the path comes back."""
    path = Path(path)
    table = rows if isinstance(rows, pa.Table) else pa.table(rows)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), CLASS_NAMES: "\n".join(class_names)})
    unfinished = path.with_name(path.name + ".part")
    formats.write_table(table, unfinished, path.suffix)
    unfinished.replace(path)
    return path


def _check_labels(manifest: Manifest, num_classes: int | None) -> None:
    labels = manifest.labels()
    top = num_classes or len(manifest.class_names) or None
    wrong = np.flatnonzero((labels < -1) | ((labels >= top) if top else False))
    if len(wrong):
        row = int(wrong[0])
        expected = f"0 to {top - 1}, or -1 for none" if top else "0 or more, or -1 for none"
        raise UserError(
            f"{manifest.name}: row {row} ({manifest.row(row).path}) has label {int(labels[row])}, but labels run from {expected}"
        )
