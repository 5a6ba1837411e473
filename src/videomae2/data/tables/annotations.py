"""Which segments of which videos have which class: THUMOS14, ActivityNet-style JSON, and a plain CSV.

| what | how it is told |
|---|---|
| JSON with `database`, or with videos at the top | ActivityNet, MultiTHUMOS, FineAction and their relatives |
| CSV with video, start_s, end_s, label | ours; optional columns duration_s, fps, subset |
| CSV with video-name or type, t-init or start | the tables of THUMOS14 that projects pass around |
| a folder of CLASS_val.txt, CLASS_test.txt or CLASS.txt | THUMOS14 and MultiTHUMOS as published |

All times are seconds. What is odd is told by file and line, and left out only when that is asked for.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from videomae2.bounds import shown
from videomae2.errors import UserError

_COLUMNS = {
    "video": ("video", "video-name", "video_name", "video_id"),
    "start": ("start_s", "start", "t-init", "t_start"),
    "end": ("end_s", "end", "t-end", "t_end"),
    "label": ("label", "type", "class", "label-idx"),
    "duration": ("duration_s", "duration", "video-duration"),
    "fps": ("fps", "frame-rate"),
    "subset": ("subset", "split"),
}
"""Our words for the columns, and the names that tables have for them; the first are ours."""

SLACK = 0.5
"""Seconds that a segment may end after its video: durations are rounded, and files disagree by a frame."""
TOLD = 3
"""Odd segments that a note names; the rest are counted."""

NO_CLASS = "unlabelled"
"""The kind of segments whose class is null: nothing can be learnt from one, so that it is never kept."""

Invalid = Literal["tell", "drop", "refuse"]


class Segment(NamedTuple):
    """One annotated segment, and the line of the file where it stands."""

    start: float
    end: float
    label: str
    line: int


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video by name, with what its annotations say of it; None and "" where they say nothing."""

    name: str
    segments: tuple[Segment, ...] = ()
    duration: float | None = None
    fps: float | None = None
    subset: str = ""


@dataclass(frozen=True)
class Annotations:
    """Videos in the order of the file, classes of all its subsets, sorted, and notes on what is odd."""

    path: str
    videos: tuple[AnnotatedVideo, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_annotations(
    path: str | Path, subset: str = "", label_key: str = "label", invalid: Invalid = "tell"
) -> Annotations:
    """The annotations of a file or folder; of one subset if it is named.

    invalid: whether segments that are empty, reversed, beyond their video, or there twice are kept and told
    (reversed ones cannot be, and those of no class never are), dropped, or refused. UserError, by file and
    line, for what is unreadable.
    """
    path = Path(path)
    if path.is_dir():
        found = list(_folder(path))
    elif not path.is_file():
        raise UserError(
            f"expected annotations, got {path}, which is not there; name a JSON, a CSV or a folder"
        )
    elif path.suffix.lower() == ".json":
        found = list(_json(path, label_key))
    else:
        found = list(_csv(path, label_key))
    videos = _merged(found)
    subsets = sorted({video.subset for video in videos if video.subset})
    if subset and subset not in subsets:
        there = ", ".join(subsets[:8]) or "no subsets"
        raise UserError(f"expected subset {shown(subset)} in {path}, got {there}; name one of these, or none")
    names = tuple(sorted({segment.label for video in videos for segment in video.segments} - {""}))
    chosen = [video for video in videos if not subset or video.subset == subset]
    if not any(video.segments for video in chosen):
        raise UserError(f"expected at least one segment in {path}, got {len(chosen)} videos without any")
    kept, notes = _checked(chosen, path, invalid)
    return Annotations(str(path), kept, names, notes)


# ---- forms


def _json(path: Path, label_key: str) -> Iterator[AnnotatedVideo]:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        reason = getattr(error, "msg", "nested too deeply")
        raise UserError(f"{path}, line {line}: expected JSON, got {reason}; is the file cut off?") from None
    database = content.get("database", content) if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise UserError(f"expected {path} to map videos to annotations, got {shown(content)}")
    lines = _Lines(text)
    for name, row in database.items():
        if not isinstance(row, dict) or not isinstance(row.get("annotations", []), list):
            if "database" not in content:
                continue  # a version, a taxonomy: what lies beside the videos
            where = f"{path}, line {lines.of(name)}, {shown(name)}"
            raise UserError(f"{where}: expected an object with a list of annotations, got {shown(row)}")
        segments = []
        for number, entry in enumerate(row.get("annotations", [])):
            line = lines.of(name, number)
            where = f"{path}, line {line}, {shown(name)}, annotation {number + 1}"
            ends = entry.get("segment") if isinstance(entry, dict) else None
            if not isinstance(ends, list) or len(ends) != 2:
                raise UserError(f'{where}: expected "segment": [start, end] in seconds, got {shown(entry)}')
            if label_key not in entry:
                raise UserError(f"{where}: expected {label_key}, got only {shown(sorted(entry))}")
            start, end = (_number(each, where, "seconds") for each in ends)
            label = entry[label_key]
            segments.append(Segment(start, end, "" if label is None else str(label), line))
        where = f"{path}, line {lines.of(name)}, {shown(name)}"
        duration, fps = (
            None if row.get(key) in (None, "") else _number(row[key], where, key)
            for key in ("duration", "fps")
        )
        yield AnnotatedVideo(name, tuple(segments), duration, fps, str(row.get("subset", "")))


class _Lines:
    """Where videos and their annotations stand in a JSON text: json itself forgets it."""

    def __init__(self, text: str) -> None:
        self.text = text
        # Only when somebody asks: of a sound file nobody does, and of a large one it takes seconds.
        self._places: dict[str, int] | None = None

    def of(self, video: str, annotation: int | None = None) -> int:
        if "\n" not in self.text.strip():
            return 1
        if self._places is None:
            keys = re.finditer(r'"((?:[^"\\\n]|\\.)*)"\s*:\s*\{', self.text)
            self._places = {json.loads(f'"{key[1]}"'): key.start() for key in keys}
            self._breaks = [found.start() for found in re.finditer("\n", self.text)]
            self._segments = [found.start() for found in re.finditer(r'"segment"\s*:', self.text)]
        place = self._places.get(video, 0)
        if annotation is not None:
            first = _below(self._segments, place)
            place = self._segments[first + annotation] if first + annotation < len(self._segments) else place
        return 1 + _below(self._breaks, place)


def _below(places: Sequence[int], value: int) -> int:
    import bisect

    return bisect.bisect_left(places, value)


def _csv(path: Path, label_key: str) -> Iterator[AnnotatedVideo]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        column = {
            word: next((header.index(name) for name in names if name in header), None)
            for word, names in (_COLUMNS | {"label": (label_key, *_COLUMNS["label"])}).items()
        }
        missing = [word for word in ("video", "start", "end", "label") if column[word] is None]
        if missing:
            raise UserError(
                f"{path}, line 1: expected the columns video,start_s,end_s,label, got "
                f"{shown(','.join(header))} (no {missing[0]}); name them in the first line"
            )
        for row in rows:
            if not row:
                continue
            where = f"{path}, line {rows.line_num}"
            if len(row) < len(header):
                raise UserError(
                    f"{where}: expected {len(header)} values, got {len(row)}: {shown(','.join(row))}"
                )
            cell = {word: "" if place is None else row[place].strip() for word, place in column.items()}
            if not cell["video"]:
                raise UserError(f"{where}: expected the name of a video, got nothing")
            duration, fps = (
                _number(cell[key], where, key) if cell[key] else None for key in ("duration", "fps")
            )
            segments: tuple[Segment, ...] = ()
            # A video without segments has a line of its own, with nothing in the other columns.
            if cell["start"] or cell["end"] or cell["label"]:
                start, end = (_number(cell[key], where, f"{key} in seconds") for key in ("start", "end"))
                if not cell["label"]:
                    raise UserError(f"{where}: expected a label, got nothing")
                segments = (Segment(start, end, cell["label"], rows.line_num),)
            yield AnnotatedVideo(cell["video"], segments, duration, fps, cell["subset"])


def _folder(path: Path) -> Iterator[AnnotatedVideo]:
    files = sorted(path.glob("*.txt"))
    if not files:
        raise UserError(
            f"expected a folder of CLASS_val.txt or CLASS.txt, got {path}, which has no .txt file"
        )
    for file in files:
        label, _, subset = file.stem.rpartition("_")
        label, subset = (label, subset) if label and subset in ("val", "test", "train") else (file.stem, "")
        # What nobody could tell apart is in a file of its own, and counts nowhere in the benchmark.
        if label.lower() == "ambiguous":
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            words = line.split()
            if not words:
                continue
            where = f"{file}, line {number}"
            if len(words) != 3:
                raise UserError(f"{where}: expected a video, start and end, got {shown(line)}")
            start, end = (_number(word, where, "seconds") for word in words[1:])
            yield AnnotatedVideo(words[0], (Segment(start, end, label, number),), subset=subset)


def _number(value: Any, where: str, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if isinstance(value, bool) or not abs(number) < 1e9:  # also false for NaN
        raise UserError(f"{where}: expected {what} as a number, got {shown(value)}")
    return number


def _merged(found: Sequence[AnnotatedVideo]) -> list[AnnotatedVideo]:
    """One entry a video: tables have a line for each segment."""
    videos: dict[str, AnnotatedVideo] = {}
    segments: dict[str, list[Segment]] = {}
    for video in found:
        videos.setdefault(video.name, video)
        segments.setdefault(video.name, []).extend(video.segments)
    return [
        AnnotatedVideo(name, tuple(segments[name]), video.duration, video.fps, video.subset)
        for name, video in videos.items()
    ]


# ---- what is odd


def _checked(
    videos: Sequence[AnnotatedVideo], path: Path, invalid: Invalid
) -> tuple[tuple[AnnotatedVideo, ...], tuple[str, ...]]:
    """The videos with the segments that remain, and a note for each kind of odd one."""
    odd: dict[str, list[str]] = {}
    kept = []
    for video in videos:
        remaining: list[Segment] = []
        for segment in video.segments:
            kind, reason = _fault(segment, video, remaining)
            if kind is not None:
                where = f"{path}, line {segment.line}, {shown(video.name)}: {reason}"
                if invalid == "refuse" or (kind == "reversed" and invalid == "tell"):
                    raise UserError(f"{where}; mend it, or leave such segments out with --data.invalid drop")
                odd.setdefault(kind, []).append(where)
            if kind is None or (invalid == "tell" and kind != NO_CLASS):
                remaining.append(segment)
        kept.append(AnnotatedVideo(video.name, tuple(remaining), video.duration, video.fps, video.subset))
    left_out = ("left out", "kept (--data.invalid drop leaves them out)")
    notes = [
        f"{len(found)} {kind} segment{'s' if len(found) > 1 else ''} "
        f"{left_out[invalid == 'tell' and kind != NO_CLASS]}: {'; '.join(found[:TOLD])}"
        + (" ..." if len(found) > TOLD else "")
        for kind, found in odd.items()
    ]
    empty = sum(not video.segments for video in kept)
    if empty:
        notes.append(f"{empty} of {len(kept)} videos of {path} have no segment")
    return tuple(kept), tuple(notes)


def _fault(segment: Segment, video: AnnotatedVideo, before: Sequence[Segment]) -> tuple[str | None, str]:
    """What kind of odd a segment is, and why; None for a sound one."""
    start, end, label, _ = segment
    told = f"{label[:60]} {start:g} to {end:g} s"
    if not label:
        return NO_CLASS, f"expected a class, got none for {start:g} to {end:g} s"
    if end < start:
        return "reversed", f"expected an end after the start, got {told}"
    if start == end:
        return "empty", f"expected a length above zero, got {told}"
    if start < 0:
        return "early", f"expected a start from 0 on, got {told}"
    if video.duration is not None and end > video.duration + SLACK:
        return "late", f"expected an end within the video's {video.duration:g} s, got {told}"
    for other in before:
        if other.label == label and min(end, other.end) > max(start, other.start):
            same = (other.start, other.end) == (start, end)
            kind = "repeated" if same else "overlapping"
            return kind, f"expected segments of a class apart, got {told} beside line {other.line}"
    return None, ""
