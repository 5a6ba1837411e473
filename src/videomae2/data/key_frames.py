"""Key frames with boxes: annotations -> a manifest with one row a key frame; its targets; clips to evaluate.

A row names a video and a moment in it; the clip is centred there. Its boxes, their actions and, for an
evaluation, the boxes that a detector found lie in list columns of the same row.
"""

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from videomae2.bounds import shown
from videomae2.data.augment.crops import joined, resize_short_side
from videomae2.data.file_names import is_video, path_column, shown_path
from videomae2.data.rows import read_pictures
from videomae2.data.sampling import KeyFrames
from videomae2.data.tables.box_files import (
    Annotations,
    Note,
    read_actions,
    read_annotations,
    read_excluded,
)
from videomae2.data.tables.lists import find_videos, sorted_classes
from videomae2.data.tables.manifest import Manifest
from videomae2.errors import UserError
from videomae2.labels import Boxes
from videomae2.placement import Box, Placement
from videomae2.records import Clip, Failure
from videomae2.settings import DetectData

_TRIMMED = re.compile(r"(.+)_(\d{6})_(\d{6})")
"""Names of Kinetics' files: the id of the whole video, and the seconds in it that the file shows."""
_OUTSIDE = 2.0
"""Pixels by which a box may reach beyond its picture."""


@dataclass(frozen=True, repr=False, kw_only=True)
class KeyFrameBoxes(Boxes):
    """The boxes of one key frame before they are placed: in pixels of the source, or in shares of it.

    `where` names the place in the annotations.
    """

    shares: bool = True
    where: str = ""

    def placed(self, placement: Placement) -> Boxes:  # type: ignore[override]  # placed, it is plain boxes
        """The boxes in the clip's pixels, but those outside. UserError for a box beyond the source."""
        return Boxes.placed(self.in_pixels(placement.source), placement)

    def in_pixels(self, source: tuple[int, int]) -> Boxes:
        """The boxes in pixels of a picture (height, width). UserError for one that lies beyond it."""
        sides = self.xyxy.new_tensor([source[1], source[0]]).repeat(2)
        xyxy = self.xyxy * sides if self.shares else self.xyxy
        if len(xyxy) and bool((xyxy > sides + _OUTSIDE).any()):
            worst = float((xyxy - sides).max() + sides[int((xyxy - sides).amax(0).argmax())])
            raise UserError(
                f"{self.where}: expected boxes inside the picture of {source[1]}x{source[0]} pixels, got a "
                f"corner at {worst:g}; were they drawn on frames of another size?"
            )
        return Boxes(xyxy=xyxy, counts=self.counts, labels=self.labels, scores=self.scores)


@dataclass
class _Moment:
    """A key frame in the making: boxes by what tells actors apart, their actions, and detected boxes."""

    path: str
    time: float
    key: int
    place: str
    boxes: dict[tuple[tuple[float, ...], str], set[int]] = field(default_factory=dict)
    found: list[tuple[float, ...]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def read_key_frames(path: str, data: DetectData, classes: Sequence[str] = ()) -> Manifest:
    """A manifest of the key frames of an annotation file, in order of video and time.

    Classes are those of `data.actions`, else `classes` (a network's), else those that the file names. With
    `data.proposals` each row also has the boxes that a detector found there. Key frames in `data.excluded`
    are left out. UserError for what `read_annotations` refuses, an unknown action, and videos that are not
    there.
    """
    annotations = read_annotations(path, data.coordinates)
    names, numbers = _classes(annotations, data, classes)
    excluded = read_excluded(data.excluded) if data.excluded else frozenset()
    videos = Videos(data.root or str(Path(path).parent), data.starts_at)
    moments: dict[tuple[str, float], _Moment] = {}
    unlisted: Counter[str] = Counter()
    for note in annotations.notes:
        if (note.video, math.floor(note.time)) in excluded:
            continue
        key = _moment(note)
        if key not in moments:
            file, begins = videos.find(note.video, note.time)
            time = note.time - begins if note.frame < 0 else -1.0
            if note.frame < 0 and time < 0:
                raise UserError(
                    f"{annotations.at(note.place)}: the time {note.time:g} s lies before {file} begins, at "
                    f"{begins:g} s of its source; mend --data.starts_at"
                )
            moments[key] = _Moment(file, time, note.frame, annotations.at(note.place))
        if note.box is not None:
            actions = moments[key].boxes.setdefault((note.box, note.actor), set())
            if note.action in numbers:
                actions.add(numbers[note.action])
            elif note.action:
                _known_or_refuse(note, annotations, data, names)
                unlisted[note.action] += 1
    if not moments:
        raise UserError(f"{annotations.where}: every key frame is excluded; mend --data.excluded")
    videos.must_be_there(annotations, data.max_broken)
    if data.proposals:
        _add_found(moments, data, annotations.shares)
    rows = [moments[key] for key in sorted(moments)]
    return Manifest(
        _table(rows, annotations.shares, bool(data.proposals)),
        class_names=names,
        num_classes=len(names),
        where=annotations.where,
    )


def _moment(note: Note) -> tuple[str, float]:
    # Files write one moment as 902, 0902 or 902.0, and round to milliseconds at most.
    return note.video, float(note.frame) if note.frame >= 0 else round(note.time, 3)


def _classes(
    annotations: Annotations, data: DetectData, classes: Sequence[str]
) -> tuple[list[str], dict[str, int]]:
    """Names of the classes, and the number of each action as the file writes it."""
    used = {note.action for note in annotations.notes} - {""}
    if data.actions:
        listed = read_actions(data.actions)
        names = list(listed.values())
        # A file may name its actions by the list's ids (AVA) or by its names.
        numbers = {name: number for number, name in enumerate(names)}
        return names, numbers | {key: number for number, key in enumerate(listed)}
    if not classes and not used:
        raise UserError(
            f"{annotations.where}: expected an action in some line, got none; what is to be learned?"
        )
    names = list(classes) or list(annotations.classes) or sorted_classes(used)
    return names, {name: number for number, name in enumerate(names)}


def _known_or_refuse(note: Note, annotations: Annotations, data: DetectData, names: Sequence[str]) -> None:
    # AVA annotates 80 actions and its lists for evaluation hold 60: ids outside the list are passed over, as
    # the official evaluator does. A name outside it is a slip of the hand.
    if data.actions and note.action.isdigit():
        return
    near = difflib.get_close_matches(note.action[:100], names, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names[:5])[:150]} ..."
    raise UserError(f"{annotations.at(note.place)}: unknown action {shown(note.action)}; {hint}")


def _add_found(moments: dict[tuple[str, float], _Moment], data: DetectData, shares: bool) -> None:
    """Put a detector's boxes of at least `data.min_score` beside the annotations of the same key frames."""
    proposals = read_annotations(data.proposals, data.coordinates, scored=True)
    if proposals.shares != shares:
        unit = {True: "shares of the picture", False: "pixels"}
        raise UserError(
            f"{proposals.where}: expected boxes in {unit[shares]}, as the annotations are, got "
            f"{unit[not shares]}"
        )
    for note in proposals.notes:
        moment = moments.get(_moment(note))
        if moment is None or note.box is None or note.score < data.min_score:
            continue
        if note.box not in moment.found:  # a line for each action of one box
            moment.found.append(note.box)
            moment.scores.append(note.score)


def _table(rows: list[_Moment], shares: bool, found: bool) -> pa.Table:
    boxes = [list(row.boxes) for row in rows]
    owners = [[n for n, acts in enumerate(row.boxes.values()) for _ in acts] for row in rows]
    columns = {
        "path": path_column([row.path for row in rows]),
        "key_time": pa.array([row.time for row in rows], pa.float64()),
        "key_frame": pa.array([row.key for row in rows], pa.int64()),
        "boxes": _numbers([[corner for each in some for corner in each[0]] for some in boxes]),
        "actions": _numbers(
            [[a for acts in row.boxes.values() for a in sorted(acts)] for row in rows], pa.int64()
        ),
        "owners": _numbers(owners, pa.int64()),
        "listed_at": pa.array([row.place for row in rows], pa.string()),
        "shares": pa.array([shares] * len(rows), pa.bool_()),
    }
    if found:
        columns["found"] = _numbers([[corner for each in row.found for corner in each] for row in rows])
        columns["found_scores"] = _numbers([row.scores for row in rows])
    return pa.table(columns)


def _numbers(lists: list[list[float]] | list[list[int]], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(lists, pa.list_(kind or pa.float64()))


class Videos:
    """Videos of a folder by the names that annotations have for them: a path, a file's name, or a YouTube id.

    `starts_at` is the second of the source at which every file begins; Kinetics' files say theirs.
    """

    def __init__(self, folder: str, starts_at: int | float = 0.0) -> None:
        self.folder = folder
        self.starts_at = float(starts_at)
        self.missing: dict[str, int] = {}
        self._asked = 0
        self._by_name: dict[str, list[tuple[float, float, str]]] | None = None

    def find(self, name: str, time: float = -1.0) -> tuple[str, float]:
        """The file that shows `name` at `time`, and the second at which it begins; a guess if none does."""
        self._asked += 1
        if is_video(name):
            path = str(Path(self.folder) / name)
            if not Path(path).is_file():
                self.missing.setdefault(name, len(self.missing))
            return path, self.starts_at
        for begins, ends, path in self._names().get(name, ()):
            if begins <= max(time, begins) <= ends:
                return path, begins
        self.missing.setdefault(name, len(self.missing))
        return str(Path(self.folder) / f"{name}.mp4"), self.starts_at

    def must_be_there(self, annotations: Annotations, most: float) -> None:
        """UserError where more than a share `most` of the videos are missing."""
        named = {note.video for note in annotations.notes}
        if len(self.missing) > most * len(named):
            first = next(note for note in annotations.notes if note.video in self.missing)
            raise UserError(
                f"{annotations.at(first.place)}: no video {shown(first.video)} in {shown_path(self.folder)} "
                f"({len(self.missing)} of {len(named)} are missing); give their folder with --data.root"
            )

    def _names(self) -> dict[str, list[tuple[float, float, str]]]:
        if self._by_name is None:
            if not Path(self.folder).is_dir():
                raise UserError(f"no folder of videos at {shown_path(self.folder)}; give it with --data.root")
            self._by_name = {}
            for listed in find_videos(Path(self.folder)).videos:
                path, stem = str(Path(self.folder) / listed), Path(listed).stem
                whole = (self.starts_at, math.inf, path)
                for name in {stem, listed, str(Path(listed).with_suffix(""))}:
                    self._by_name.setdefault(name, []).append(whole)
                if part := _TRIMMED.fullmatch(stem):
                    self._by_name.setdefault(part[1], []).append((float(part[2]), float(part[3]), path))
        return self._by_name


# ---- targets


def read_boxes(manifest: Manifest, row: int) -> KeyFrameBoxes:
    """The annotated boxes of a key frame, labels [A, K] 0 or 1."""
    xyxy = _list(manifest, row, "boxes", torch.float32).reshape(-1, 4)
    hot = torch.zeros(len(xyxy), manifest.num_classes)
    hot[_list(manifest, row, "owners", torch.int64), _list(manifest, row, "actions", torch.int64)] = 1
    return _of_row(manifest, row, xyxy, labels=hot)


def read_found(manifest: Manifest, row: int) -> KeyFrameBoxes:
    """The boxes to score in an evaluation: a detector's, or the annotated ones, each of score 1."""
    if "found" in manifest.table.column_names:
        xyxy = _list(manifest, row, "found", torch.float32).reshape(-1, 4)
        return _of_row(manifest, row, xyxy, scores=_list(manifest, row, "found_scores", torch.float32))
    xyxy = _list(manifest, row, "boxes", torch.float32).reshape(-1, 4)
    return _of_row(manifest, row, xyxy, scores=torch.ones(len(xyxy)))


def _of_row(
    manifest: Manifest, row: int, xyxy: Tensor, labels: Tensor | None = None, scores: Tensor | None = None
) -> KeyFrameBoxes:
    shares = bool(manifest.table.column("shares")[row].as_py())
    where = _place(manifest, row)
    counts = torch.tensor([len(xyxy)])
    return KeyFrameBoxes(xyxy=xyxy, counts=counts, labels=labels, scores=scores, shares=shares, where=where)


def _place(manifest: Manifest, row: int) -> str:
    return str(manifest.table.column("listed_at")[row].as_py())


def _list(manifest: Manifest, row: int, column: str, kind: torch.dtype) -> Tensor:
    return torch.tensor(manifest.table.column(column)[row].as_py(), dtype=kind)


def annotated(manifest: Manifest) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All annotations at once: frame [N] and corners [N, 4] of each box, and box and action of each label."""
    boxes, owners, actions = (
        manifest.table.column(name).to_pylist() for name in ("boxes", "owners", "actions")
    )
    counts = np.array([len(each) // 4 for each in boxes], dtype=np.int64)
    frame: np.ndarray = np.repeat(np.arange(len(boxes)), counts)
    first = np.cumsum(counts) - counts
    xyxy = np.array([corner for each in boxes for corner in each], dtype=np.float64).reshape(-1, 4)
    box = [int(first[row]) + owner for row, each in enumerate(owners) for owner in each]
    return frame, xyxy, np.array(box, np.int64), np.array([a for each in actions for a in each], np.int64)


# ---- clips to evaluate


class KeyFrameViews:
    """Whole pictures around each key frame: the short side at `short_side`, nothing cropped (released).

    The target holds every box to be scored, in pixels of the clip. A row that cannot be read is a Failure.
    """

    num_crops = 1

    def __init__(self, manifest: Manifest, data: DetectData, num_frames: int, short_side: int) -> None:
        self.manifest = manifest
        self.data = data
        self.num_frames = num_frames
        self.size = short_side
        self.sampler = KeyFrames(num_frames)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> list[Clip] | Failure:
        """The clip of one key frame, or why there is none."""

        def draw(count: int, stride: int) -> np.ndarray:
            frames: np.ndarray = self.sampler.views(count, stride, 1)[0]
            return frames

        def shrink(pictures: Tensor) -> list[Tensor]:
            return [resize_short_side(pictures, self.size)]

        read = read_pictures(self.manifest, row, self.data, draw, shrink)
        if isinstance(read, Failure):
            return read
        frames = joined(read.parts[0], read.places.tolist())
        seen = frames.shape[-2], frames.shape[-1]
        placement = Placement.of(Box.around(frames), seen, read.source, seen)
        boxes = read_found(self.manifest, row).in_pixels(read.source)
        # None may be dropped, however small: scores are matched with boxes by their order.
        xyxy, _ = placement.to_clip(boxes.xyxy, min_size=0)
        return [Clip(frames, row, 0, Boxes.one(xyxy, scores=boxes.scores), placement)]


def lines_of(manifest: Manifest, rows: Iterable[int]) -> list[str]:
    """What a table of key frames calls each of these rows: its video and its moment."""
    named = []
    for number in rows:
        row = manifest.row(number)
        moment = f"{row.key_time:g} s" if row.key_time >= 0 else f"frame {row.key_frame}"
        named.append(f"{Path(row.path).name}, {moment}")
    return named
