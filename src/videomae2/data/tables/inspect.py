"""What a list of videos is read as, and which of its files can be decoded: `data show` and `data check`."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from videomae2.data.file_names import kind_of, printable
from videomae2.data.rows import failure_of, open_row
from videomae2.data.tables.formats import ROW_COLUMNS
from videomae2.data.tables.manifest import Manifest, Row, read_listed
from videomae2.data.video.decode import VideoFile
from videomae2.data.video.opening import UNREADABLE, DecodeError
from videomae2.data.video.transport import Patience
from videomae2.settings import DataSettings

AS_LISTED = DataSettings()
"""No root of its own, and the meaning of a list told from its numbers."""


@dataclass(frozen=True)
class FileReport:
    """One file (or folder of frames) after decoding all of it; `reason` is empty where it is readable."""

    path: str
    num_frames: int
    reason: str = ""


def show(path: str | Path, data: DataSettings = AS_LISTED, rows: int = 10) -> str:
    """Several lines: rows, files, columns, sources, classes, and the first rows as they are read.

    UserError as `read_manifest`.
    """
    manifest = read_listed(str(path), data)
    table = manifest.table
    kept = [name for name in table.column_names if name not in ROW_COLUMNS]
    known = [name for name in ROW_COLUMNS if name in table.column_names]
    files = len(pc.unique(table.column("path")))
    lines = [
        f"{printable(str(path))}: {len(manifest)} rows, {files} files",
        f"columns: {', '.join(known)}" + (f"; kept: {', '.join(kept)}" if kept else ""),
        f"relative paths start from: {printable(manifest.root) or '.'}",
        _labels_line(manifest),
    ]
    if "source" in known:
        counts = [
            f"{entry['values']} ({entry['counts']})"
            for entry in pc.value_counts(table.column("source")).to_pylist()
        ]
        lines.append(f"sources: {', '.join(counts)}")
    if rows > 0:
        lines.append(f"first {min(rows, len(manifest))} rows:")
        lines += [
            f"  {number}  {_describe(manifest.row(number), manifest)}"
            for number in range(min(rows, len(manifest)))
        ]
    return "\n".join(lines)


def check(
    path: str | Path, data: DataSettings = AS_LISTED, workers: int = 2, write: Callable[[str], object] = print
) -> int:
    """Decode every file and `write` a line for each broken one; how many are broken.

    The last line is `N files, N readable, N broken`.
    """
    total = broken = 0
    for report in reports(read_listed(str(path), data), workers):
        total += 1
        if report.reason:
            broken += 1
            write(f"{printable(report.path)}: {report.reason}")
    write(f"{total} files, {total - broken} readable, {broken} broken")
    return broken


def reports(manifest: Manifest, workers: int = 2) -> Iterator[FileReport]:
    """A report for each file of a manifest, once, in the order of first mention.

    Threads are enough: FFmpeg lets go of the interpreter while it decodes.
    """
    files = _files(manifest)
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        while batch := list(islice(files, 256)):  # a bounded number is under way, however long the manifest
            yield from pool.map(inspect_row, batch)


def inspect_row(row: Row) -> FileReport:
    """Decode all of a row's file; a row that starts after the file's end is broken too."""
    patience = Patience(retries=AS_LISTED.retries)  # and as long as it takes: all of it is decoded

    def count() -> int:
        with open_row(row, patience=patience) as video:
            if isinstance(video, VideoFile):
                return video.verify()
            for number in range(row.start, video.num_frames):
                video.read([number])
            return video.num_frames

    try:
        found = patience.keep(count, row.path)
    except UNREADABLE as error:
        picture = isinstance(error, DecodeError) and row.pattern and error.path != printable(row.path)
        within = f"{Path(error.path).name}: " if picture else ""  # type: ignore[union-attr]
        return FileReport(row.path, 0, within + failure_of(0, row.path, error, patience).reason)
    if row.start >= found:
        return FileReport(
            row.path, found, f"a row starts at frame {row.start}, but it has {found} frames, numbered from 0"
        )
    return FileReport(row.path, found)


def _files(manifest: Manifest) -> Iterator[Row]:
    """One row for each file: the one that starts last; of folders of frames, each stretch."""
    latest: dict[tuple[str | int, ...], Row] = {}
    for number in range(len(manifest)):
        row = manifest.row(number)
        # A video is decoded from its first frame to its last anyway; a folder only between start and end.
        key = (row.path, row.pattern, row.start, row.end) if row.pattern else (row.path,)
        if key not in latest or latest[key].start < row.start:
            latest[key] = row
    yield from latest.values()


def _labels_line(manifest: Manifest) -> str:
    labels = manifest.labels()
    labelled = labels[labels >= 0]
    if len(labelled) == 0:
        return "labels: none"
    counts = np.bincount(labelled, minlength=manifest.num_classes)
    names = manifest.class_names
    shown = ", ".join(f"{names[c] if names else c} ({counts[c]})" for c in range(min(len(counts), 12)))
    more = f", and {len(counts) - 12} more" if len(counts) > 12 else ""
    missing = f"; no label: {len(labels) - len(labelled)} rows" if len(labelled) < len(labels) else ""
    return f"labels: {manifest.num_classes} classes: {shown}{more}{missing}"


def _describe(row: Row, manifest: Manifest) -> str:
    parts = [printable(row.path)]
    if row.start or row.end >= 0:
        parts.append(f"frames {row.start} to {row.end - 1 if row.end >= 0 else 'the end'}")
    if row.label >= 0:
        name = f" ({manifest.class_names[row.label]})" if row.label < len(manifest.class_names) else ""
        parts.append(f"label {row.label}{name}")
    parts += [f"{name} {value}" for name in ("source", "stride", "pattern") if (value := getattr(row, name))]
    return "  ".join(parts if "://" in row.path or kind_of(row.path) else [*parts, "(not there)"])
