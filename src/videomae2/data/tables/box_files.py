"""Boxes with actions, or with a detector's scores, in the forms that people keep them in.

AVA's CSV files (v2.1, v2.2, AVA-Kinetics; no header), CSV files with a header
(`video,time,x1,y1,x2,y2,label`, and perhaps `actor`, `score`; `frame` in place of `time`), JSON in COCO's
form, and JSON of tubes (UCF24, JHMDB: frames from `sf` to before `ef`). Every error names the file and the
line or the entry.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomae2.bounds import shown
from videomae2.data.file_names import kind_of, shown_path
from videomae2.data.tables.readers import read_text
from videomae2.errors import UserError

_COLUMNS = {
    "video": ("video", "path", "file", "video_id"),
    "time": ("time", "time_s", "timestamp", "seconds"),
    "frame": ("frame", "key", "frame_number", "frame_index"),
    "x1": ("x1", "xmin", "x0"),
    "y1": ("y1", "ymin", "y0"),
    "x2": ("x2", "xmax"),
    "y2": ("y2", "ymax"),
    "label": ("label", "action", "class"),
    "actor": ("actor", "actor_id", "track", "track_id", "person_id"),
    "score": ("score", "confidence"),
}
"""Columns of a CSV with a header, and the names that people give them."""
_SLACK = 0.01
"""How far a box in shares may reach beyond the picture: annotators' tools round."""
_OUTSIDE = 2.0
"""The same in pixels."""


@dataclass(frozen=True, slots=True)
class Note:
    """One box of one key frame with one action ("": none), or a detector's box with its score.

    `time` is in seconds, or -1 where `frame` says the key frame by its number (else -1). `box` is None for a
    key frame that is listed because nobody is in it. `place` is the line or the entry in the file.
    """

    video: str
    time: float
    frame: int
    box: tuple[float, float, float, float] | None
    action: str = ""
    actor: str = ""
    score: float = 1.0
    place: int = 0


@dataclass(frozen=True)
class Annotations:
    """What a file says: its notes, whether boxes are shares of the picture (else pixels), and its classes."""

    where: str
    notes: tuple[Note, ...]
    shares: bool
    classes: tuple[str, ...] = ()
    unit: str = "line"

    def at(self, place: int) -> str:
        """A place of the file for messages: "boxes.csv, line 7"."""
        return f"{self.where}, {self.unit} {place}"


def read_annotations(path: str | Path, coordinates: str = "auto", scored: bool = False) -> Annotations:
    """Read a file of boxes. `scored`: of a detector, where AVA's last column is a score and not a person.

    `coordinates` is shares (0 to 1), pixels, or auto: shares where no number is above 1. UserError, with the
    place in the file, for what is not understood, a box that ends before it starts, or lies outside.
    """
    path = Path(path)
    if kind_of(path) != "file":
        raise UserError(f"no file of boxes at {shown_path(str(path))}; give a .csv or .json of boxes")
    where = shown_path(str(path))
    if path.suffix.lower() == ".json":
        found = _from_json(path, where)
    else:
        text = read_text(path)
        first = next((line for line in text.split("\n") if line.strip()), "")
        if not first:
            raise UserError(f"{where} is empty; it needs at least one box")
        found = _from_table(text, where) if _has_header(first) else _from_ava(text, where, scored)
    if not found.notes:
        raise UserError(f"{where} lists no box; it needs at least one")
    return _checked(found, coordinates)


# ---- CSV


def _has_header(first: str) -> bool:
    cells = [cell.strip().lower() for cell in first.split(",")]
    return bool(set(cells) & set(_COLUMNS["video"])) or not any(map(_is_number, cells[1:]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text), skipinitialspace=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: {error}") from None


def _from_table(text: str, where: str) -> Annotations:
    lines = _lines(text, where)
    _, header = next(lines)
    columns = _columns(header, where)
    notes = []
    for place, cells in lines:
        at = f"{where}, line {place}"
        if len(cells) != len(header):
            raise UserError(f"{at}: {len(cells)} cells, but the header names {len(header)} columns")
        row = {name: cells[number] for name, number in columns.items()}
        time = _number(row["time"], "time", at) if "time" in row else -1.0
        frame = int(_number(row["frame"], "frame", at)) if "time" not in row else -1
        notes.append(
            Note(
                row["video"],
                time,
                frame,
                _box([row[name] for name in ("x1", "y1", "x2", "y2")], at),
                row.get("label", ""),
                row.get("actor", ""),
                _number(row["score"], "score", at) if row.get("score") else 1.0,
                place,
            )
        )
    return Annotations(where, tuple(notes), shares=False)


def _columns(header: list[str], where: str) -> dict[str, int]:
    """Where each known column stands; UserError where one is missing."""
    plain = [cell.lower() for cell in header]
    found = {
        name: plain.index(word) for name, words in _COLUMNS.items() for word in words[::-1] if word in plain
    }
    missing = [name for name in ("video", "x1", "y1", "x2", "y2") if name not in found]
    if "time" not in found and "frame" not in found:
        missing.insert(1, "time")
    if missing:
        raise UserError(
            f"{where}: expected columns video,time,x1,y1,x2,y2,label (and perhaps actor, score), got "
            f"{shown_path(', '.join(header))}: no {', '.join(missing)}"
        )
    return found


def _from_ava(text: str, where: str, scored: bool) -> Annotations:
    notes = []
    for place, written in _lines(text, where):
        at = f"{where}, line {place}"
        if not (len(written) == 2 or 6 <= len(written) <= 8):
            raise UserError(
                f"{at}: expected AVA's columns video,time,x1,y1,x2,y2,action,person, got {len(written)} "
                "cells; a file of your own needs a first line that names its columns"
            )
        cells = written + [""] * (8 - len(written))
        empty = not any(cells[2:6])  # a key frame of AVA-Kinetics with nobody in it
        last = cells[7]
        notes.append(
            Note(
                cells[0],
                _number(cells[1], "time", at),
                -1,
                None if empty else _box(cells[2:6], at),
                cells[6],
                "" if scored else last,
                _number(last, "score", at) if scored and last else 1.0,
                place,
            )
        )
    return Annotations(where, tuple(notes), shares=True)


def _number(text: str, name: str, at: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (name in ("time", "frame") and value < 0):
        raise UserError(f"{at}: expected {name} as a number from 0 on, got {shown(text)}")
    return value


def _box(cells: list[str], at: str) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (
        _number(cell, name, at) for cell, name in zip(cells, ("x1", "y1", "x2", "y2"), strict=True)
    )
    return x1, y1, x2, y2


# ---- JSON


def _from_json(path: Path, where: str) -> Annotations:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON: {str(error)[:100]}") from None
    try:
        if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
            return _from_coco(content, where)
        if isinstance(content, dict) and content and all(isinstance(each, dict) for each in content.values()):
            return _from_tubes(content, where)
        if isinstance(content, dict) and isinstance(content.get("key_frames"), list):
            return _from_ours(content, where)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: {type(error).__name__} {str(error)[:100]} in an entry; see docs") from None
    raise UserError(
        f"{where}: expected COCO's JSON (images, annotations, categories), tubes by video (tubes or "
        "annotations with label, sf, ef, boxes), or what detect writes, got neither"
    )


def _from_coco(content: Mapping[str, Any], where: str) -> Annotations:
    """COCO's: boxes are x, y, width, height in pixels; an image says its video and its time or frame."""
    names = {each["id"]: str(each["name"]) for each in content.get("categories", ())}
    videos = {each["id"]: str(each.get("file_name") or each["name"]) for each in content.get("videos", ())}
    images: dict[Any, tuple[str, float, int]] = {}
    time: Any
    for place, each in enumerate(content["images"]):
        video = each.get("video") or videos.get(each.get("video_id"))
        time = next((each[key] for key in ("time", "timestamp") if key in each), None)
        frame = next((each[key] for key in ("frame", "frame_id", "frame_index") if key in each), None)
        if video is None or (time is None and frame is None):
            raise UserError(
                f"{where}, image {place}: expected its video (video, or video_id of videos) and its time or "
                f"frame, got {shown_path(', '.join(map(str, each)))}"
            )
        # The time where there is one: frames of a set may be numbered at another rate.
        by_time = time is not None
        images[each["id"]] = (
            str(video),
            float(time) if by_time else -1.0,
            -1 if by_time else int(frame or 0),
        )
    notes = []
    for place, each in enumerate(content["annotations"]):
        if each["image_id"] not in images:
            raise UserError(f"{where}, annotation {place}: no image has the id {shown(each['image_id'])}")
        x, y, width, height = map(float, each["bbox"])
        if (category := each.get("category_id")) is not None and category not in names:
            raise UserError(f"{where}, annotation {place}: no category has the id {shown(category)}")
        actor = str(each.get("track_id", each.get("instance_id", "")))
        action = names.get(category, "")
        box = (x, y, x + width, y + height)
        notes.append(
            Note(*images[each["image_id"]], box, action, actor, float(each.get("score", 1.0)), place)
        )
    return Annotations(where, tuple(notes), shares=False, classes=tuple(names.values()), unit="annotation")


def _from_tubes(content: Mapping[str, Any], where: str) -> Annotations:
    """Tubes by video: boxes x, y, width, height in pixels at each frame from `sf` to before `ef`."""
    notes, place = [], 0
    for video, entry in content.items():
        tubes = entry.get("tubes", entry.get("annotations"))
        if tubes is None:
            raise UserError(
                f"{where}: expected tubes or annotations of {shown(video)}, got {list(entry)[:5]}"
            )
        for number, tube in enumerate(tubes):
            boxes = tube.get("boxes_xywh", tube.get("boxes"))
            if len(boxes) != tube["ef"] - tube["sf"]:
                raise UserError(
                    f"{where}, tube {place}: expected {tube['ef'] - tube['sf']} boxes, for frames "
                    f"{tube['sf']} to before {tube['ef']}, got {len(boxes)}"
                )
            for frame, (x, y, width, height) in enumerate(boxes, tube["sf"]):
                box = (float(x), float(y), float(x + width), float(y + height))
                action, actor = str(tube.get("label", entry.get("label", ""))), str(number)
                notes.append(Note(str(video), -1.0, frame, box, action, actor, place=place))
            place += 1
    return Annotations(where, tuple(notes), shares=False, unit="tube")


def _from_ours(content: Mapping[str, Any], where: str) -> Annotations:
    """What `videomae2 detect` writes: key frames with actors, each with its box, score and actions."""
    notes = []
    for place, moment in enumerate(content["key_frames"]):
        if not moment["actors"]:
            notes.append(Note(str(content["video"]), float(moment["time"]), -1, None, place=place))
        for actor in moment["actors"]:
            box = tuple(map(float, actor["box"]))
            actions = [each["name"] for each in actor["actions"]] or [""]
            for action in actions:
                note = (str(content["video"]), float(moment["time"]), -1, box, str(action))
                notes.append(Note(*note, str(actor["actor"]), float(actor["score"]), place))  # type: ignore[arg-type]
    return Annotations(where, tuple(notes), shares=False, unit="key frame")


# ---- what every form must keep


def _checked(found: Annotations, coordinates: str) -> Annotations:
    boxes = [note for note in found.notes if note.box is not None]
    shares = found.shares
    if coordinates != "auto":
        shares = coordinates == "shares"
    elif not shares:
        shares = bool(boxes) and all(max(note.box) <= 1 + _SLACK for note in boxes if note.box)
    for note in boxes:
        assert note.box is not None
        x1, y1, x2, y2 = note.box
        at = found.at(note.place)
        if x2 < x1 or y2 < y1:
            axis, low, high = ("x", x1, x2) if x2 < x1 else ("y", y1, y2)
            raise UserError(
                f"{at}: the box ends before it starts: {axis}2 {high:g} is below {axis}1 {low:g}; give the "
                "corners x1,y1,x2,y2, not width and height"
            )
        low, high = min(note.box), max(note.box)
        if shares and (low < -_SLACK or high > 1 + _SLACK):
            raise UserError(
                f"{at}: expected a box in shares of the picture, from 0 to 1, got "
                f"{low if low < 0 else high:g}; give --data.coordinates pixels if these are pixels"
            )
        if not shares and low < -_OUTSIDE:
            raise UserError(f"{at}: expected a box inside the picture, got a corner at {low:g} pixels")
    return Annotations(found.where, found.notes, shares, found.classes, found.unit)


def read_actions(path: str | Path) -> dict[str, str]:
    """Actions by their id in annotations, in order: AVA's .pbtxt, or text with a name a line ("7: jump").

    Without ids a name is its own. UserError where there is none, or one twice.
    """
    where = shown_path(str(path))
    if kind_of(path) != "file":
        raise UserError(f"no list of actions at {where}; give AVA's .pbtxt, or a text with one name a line")
    text = read_text(Path(path))
    found: list[tuple[str, str]]
    if re.search(r"^\s*(?:item|label)\s*\{", text, re.MULTILINE):
        blocks = re.findall(r"\{(.*?)\}", text, re.DOTALL)
        pairs = [
            (re.search(r"\b(?:label_)?id\s*:\s*(\d+)", block), re.search(r'\bname\s*:\s*"([^"]*)"', block))
            for block in blocks
        ]
        found = [(number[1], name[1]) for number, name in pairs if number and name]
    else:
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        numbered = [re.fullmatch(r"(\d+)\s*[:,\t ]\s*(.+)", line) for line in lines]
        if lines and all(numbered):
            found = [(each[1], each[2]) for each in numbered if each]
        else:
            found = [(line, line) for line in lines]
    if not found:
        raise UserError(f"{where} lists no action; expected AVA's .pbtxt, or a text with one name a line")
    twice = [key for key, _ in found if [other for other, _ in found].count(key) > 1]
    if twice:
        raise UserError(f"{where}: the action {shown(twice[0])} is listed twice; keep one of them")
    return dict(found)


def read_excluded(path: str | Path) -> frozenset[tuple[str, int]]:
    """AVA's excluded timestamps: (video, whole second) pairs that an evaluation leaves out."""
    if kind_of(path) != "file":
        raise UserError(
            f"no file of excluded timestamps at {shown_path(str(path))}; give a CSV of video,time"
        )
    found = set()
    for place, cells in _lines(read_text(Path(path)), shown_path(str(path))):
        at = f"{shown_path(str(path))}, line {place}"
        if len(cells) != 2:
            raise UserError(f"{at}: expected video,time, got {len(cells)} cells")
        found.add((cells[0], int(_number(cells[1], "time", at))))
    return frozenset(found)
