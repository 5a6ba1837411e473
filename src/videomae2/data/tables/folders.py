"""A folder as a list of videos: each subfolder with videos is a class, and videos right in it have no label.

Links to folders are followed. What systems and programs leave beside people's files is passed over and named:
a class `.ipynb_checkpoints` would train without a word.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from videomae2.data.file_names import SUFFIXES, is_video, kind_of, printable, shown_path
from videomae2.errors import UserError

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


def _walk(folder: str, below: str, parents: tuple[tuple[int, int], ...], found: Found) -> None:
    status = os.stat(folder)  # noqa: PTH116 - a string: `Path` cannot hold what scandir gave more cheaply
    identity = status.st_dev, status.st_ino
    if identity in parents:
        raise UserError(
            f"{shown_path(folder)} is a link to a folder that it lies in, so its videos would be read "
            "without end; remove the link"
        )
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
