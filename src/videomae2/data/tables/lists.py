"""Lists without a header: the released projects' files, one clip a line, and folders of videos.

A path, then whole numbers, parted by spaces (or commas). A path with spaces is quoted, or ends in something
that is not a number. The count of numbers says what they are:

  path                      one video, no label
  path label                one labelled video
  path start total label    frames start .. start + total - 1; total below 0 is the whole video
  path start total          as above without a label (list_format "pretrain")
  path total label          a video (total is not needed; list_format "video"), or `total` frames numbered
                            from 1 (list_format "frames")

The last two look alike. "auto" takes `start total` if some total is below 0, or no start is above 1; `total
label` if some label is 0; else it refuses. A path without a video's suffix, with a total, is a folder of
frames named by `pattern`.
"""

import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from videomae2.bounds import shown
from videomae2.data.file_names import SUFFIXES, is_video, kind_of, printable, shown_path
from videomae2.data.tables.readers import SEPARATORS
from videomae2.errors import UserError

ListFormat = Literal["auto", "pretrain", "video", "frames"]
NUMBER = re.compile(r"[+-]?[0-9]{1,18}\Z")
MOST = 10**12
"""No video has as many frames and no data set as many classes; a larger number is a slip."""
_TAIL = re.compile(
    r"(?:\.(?:" + "|".join(suffix[1:] for suffix in SUFFIXES) + r")[\"']?)(\s*[,;|\t]\s*| +)\S", re.I
)
"""A video's name with something after it, and what parts the two."""


def read_list(path: Path, text: str, list_format: ListFormat, pattern: str) -> pa.Table:
    """The rows of a list file's text; UserError for a line that cannot be read, or where two readings fit."""
    places, paths, tails = _split_lines(path, text)
    if not paths:
        raise UserError(f"{path} is empty; it needs at least one row")
    if not tails.shape[1]:
        return pa.table({"path": paths})
    if tails.shape[1] == 3 and (tails[:, 1] == 0).any():
        raise UserError(
            f"{path}, line {places[int(np.argmax(tails[:, 1] == 0))]}: expected at least 1 frame, got a clip "
            "of 0 frames; give -1 for a whole video"
        )
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
        f"{path} has two numbers after each path, and they may be `start total` or `total label`; write a "
        "CSV whose first line is path,start,end or path,label, or say which they are: --data.list_format "
        "pretrain (start total), video or frames (total label); with data show and data check, --list-format"
    )


def _split_lines(path: Path, whole: str) -> tuple[list[int], list[str], np.ndarray]:
    """Line numbers, paths, and the whole numbers after each path, [N, K]; K is settled by the first line."""
    places: list[int] = []
    paths: list[str] = []
    numbers, separator, count = array("q"), None, -1  # an array: lists may have millions of lines
    for place, line in enumerate(whole.split("\n"), start=1):
        text = line.strip()
        if not text or text[0] == "#":
            continue
        if count < 0:
            separator, count = _layout(text, f"{path}, line {place}")
        # From the right: a path may hold spaces, numbers do not.
        name, *cells = text.rsplit(separator, count) if count else (text,)
        after = [int(cell) for cell in cells if NUMBER.match(cell.strip())]
        if len(after) != count:
            expected = f"a path and {count} whole numbers, as in its first line"
            raise UserError(
                f"{path}, line {place}: expected {expected}, got {shown(text)}; quote a path with spaces"
            )
        if any(abs(number) > MOST for number in after):
            raise UserError(f"{path}, line {place}: expected numbers up to {MOST}, got {shown(text)}")
        numbers.extend(after)
        places.append(place)
        name = name.strip()
        _must_be_whole_name(name, f"{path}, line {place}")
        paths.append(name[1:-1].strip() if name[:1] in ('"', "'") and name[-1] == name[0] else name)
    return places, paths, np.array(numbers, dtype=np.int64).reshape(len(paths), max(count, 0))


def _must_be_whole_name(text: str, where: str) -> None:
    """UserError where a line that is read as one path is a video's name and more, such as a class name."""
    if (
        is_video(text)
        or (text[:1] in ('"', "'") and text[-1] == text[0])
        or not (found := _TAIL.search(text))
    ):
        return
    parted = SEPARATORS.get(found[1].strip(" ") or " ", "spaces")
    raise UserError(
        f"{where}: expected a path and whole numbers, got {shown(text)}, a path and more parted by {parted}; "
        "labels that are names need a first line path,label and commas between the cells"
    )


def _layout(text: str, where: str) -> tuple[str | None, int]:
    """The separator of a list and the count of numbers after each path, from its first line."""
    found = [each for each in (*SEPARATORS, None) if _count_numbers(text, each)]
    separator = found[0] if found else None
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
    while count < len(cells) - 1 and NUMBER.match(cells[-1 - count].strip()):
        count += 1
    return count


_SYSTEM = frozenset({
    "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "__macosx",
    "__pycache__", "lost+found", "recycled", "recycler", "system volume information", "thumbs",
})  # fmt: skip
"""Folders that systems and programs make, in lower case; those that begin with a dot need no list."""

SPLITS = frozenset({
    "dev", "eval", "held_out", "heldout", "holdout", "test", "testing", "train", "training", "val", "valid",
    "validation",
})  # fmt: skip
"""Names, in lower case, that say which part of a data set a folder is."""


@dataclass
class Found:
    """Videos below a folder, by their paths from it, in sorted order; and what was passed over."""

    videos: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    ways: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How often each folder was entered."""

    def notes(self) -> list[str]:
        """What was passed over, in sentences."""
        notes = []
        if self.hidden:
            notes.append(f"skipped hidden or system entries: {_few(self.hidden)}")
        if self.special:
            notes.append(f"skipped what is named like a video but is no file: {_few(self.special)}")
        return notes


def find_videos(folder: Path) -> Found:
    """All videos below a folder. UserError for links that lead in circles, and for a folder that is shut."""
    found = Found()
    _walk(str(folder), "", (), found)
    found.videos.sort()
    if not found.videos:
        raise UserError(
            f"{shown_path(str(folder))} holds no video file (looked for {', '.join(SUFFIXES[:6])} ...)"
            + "".join(f"; {note}" for note in found.notes())
        )
    return found


def class_labels(found: Found, folder: Path) -> tuple[list[str] | None, list[str]]:
    """The class folder of each video, empty for a video right in the folder; None where there is no class.

    UserError where the subfolders are parts of a data set instead of classes. The second list holds notes.
    """
    labels = [printable(name.split("/", 1)[0]) if "/" in name else "" for name in found.videos]
    classes = sorted(set(labels) - {""})
    if not classes:
        return None, []
    if all(name.lower() in SPLITS for name in classes):
        where = shown_path(str(folder / classes[0]))
        raise UserError(
            f"{shown_path(str(folder))} holds parts of a data set ({_few(classes)}), not classes; name one "
            f"of them, such as {where}"
        )
    strays = [name for name, label in zip(found.videos, labels, strict=True) if not label]
    return labels, [
        f"without a label, because they lie beside class folders: {_few(strays)}"
    ] if strays else []


def sorted_classes(names: set[str]) -> list[str]:
    """Names in the order in which they are numbered: by value where all are whole numbers, else as text.

    So folders 0 .. 11 get the labels that their names say.
    """
    if all(re.fullmatch(r"0|[1-9][0-9]{0,17}", name) for name in names):
        return sorted(names, key=int)
    return sorted(names)


MOST_WAYS, MOST_DEEP = 1000, 100
"""By so many ways may links lead to one folder (ten folders with two links to the next are 1024), and so deep
may folders lie.
"""


def _walk(folder: str, below: str, parents: tuple[tuple[int, int], ...], found: Found) -> None:
    try:
        status = os.stat(folder)  # noqa: PTH116 - a string: `Path` cannot hold what scandir gave more cheaply
    except OSError as error:
        raise UserError(f"{shown_path(folder)} cannot be listed: {error.strerror}") from None
    identity = status.st_dev, status.st_ino
    if identity in parents:
        raise UserError(
            f"{shown_path(folder)} is a link to a folder that it lies in, so its videos would be read "
            "without end; remove the link"
        )
    found.ways[identity] += 1
    if found.ways[identity] > MOST_WAYS or len(parents) > MOST_DEEP:
        what = f"{len(parents)} folders deep" if len(parents) > MOST_DEEP else f"reached by {MOST_WAYS} links"
        raise UserError(f"{shown_path(folder)} is {what}; expected folders of classes; name one further down")
    for entry in _entries(folder):
        place = f"{below}{entry.name}"
        kind = kind_of(entry.path)
        if kind != "folder" and not is_video(entry.name):
            continue
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
            found.hidden.append(place)
        elif kind == "folder":
            _walk(entry.path, f"{place}/", (*parents, identity), found)
        elif kind in ("file", ""):  # a link to nothing is listed, and counted as a video that is not there
            found.videos.append(place)
        else:
            found.special.append(place)


def _entries(folder: str) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{shown_path(folder)} cannot be listed: {error.strerror}") from None


def _few(names: list[str]) -> str:
    shown = ", ".join(shown_path(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
