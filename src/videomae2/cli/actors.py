"""What `detect` prints and writes: JSON and CSV that read back as boxes, and the video with actors drawn."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from videomae2.api.detectors import Detector, Tiled, describe, find_detector
from videomae2.api.model import load
from videomae2.api.raw_video import Actor, KeyFrame, Request
from videomae2.data.video.decode import VideoFile
from videomae2.engine.device import keep_freed_memory
from videomae2.engine.progress import progress, say
from videomae2.errors import UserError
from videomae2.files import json_text, must_be_new, replacing
from videomae2.report.box_pictures import Drawn, draw_boxes

COLUMNS = ("video", "time", "x1", "y1", "x2", "y2", "label", "actor", "score", "action_score")
KINDS = (".json", ".csv", ".mp4")
MOST_SIDE = 1280
"""Longer sides of a drawn video are scaled down to this."""


def detect_files(
    files: Sequence[Path],
    weights: str,
    *,
    out: Sequence[Path] = (),
    detector: str = "auto",
    boxes: str = "",
    threshold: float | None = None,
    tiles: bool = False,
    request: Request = Request(),  # noqa: B008 - frozen
    device: str = "auto",
    precision: str = "fp32",
) -> None:
    """Print who does what at each key frame of each video, and write it to `out`.

    `out` are files by their ending (.json, .csv, .mp4) for one video, or a folder for any number. UserError
    for what cannot be read or written.
    """
    found: Detector = find_detector(detector, boxes, threshold)
    found = Tiled(found) if tiles and not boxes else found
    places = [_places(file, out, len(files)) for file in files]
    must_be_new(*(path for written in places for path in written))
    model = load(weights, device=device, precision=precision)
    if model.device.type == "cpu":
        keep_freed_memory()
    say(describe(found))
    if found.warning:
        say(f"warning: {found.warning}")
    failed: list[tuple[Path, UserError]] = []
    for file, written in zip(files, places, strict=True):
        try:
            _one(model.detections(file, found, request), file, written, _about(weights, found, request))
        except UserError as error:
            failed.append((file, error))
            if len(files) > 1:
                say(f"{file}: {str(error).removeprefix(f'{file}: ')}")
    if failed:
        raise (
            failed[0][1]
            if len(files) == 1
            else UserError(f"{len(failed)} of {len(files)} videos could not be read")
        )


def _places(file: Path, out: Sequence[Path], files: int) -> list[Path]:
    """Which files are written for a video."""
    folders = [path for path in out if path.suffix.lower() not in KINDS]
    for folder in folders:
        if folder.suffix and not folder.is_dir():
            raise UserError(f"expected --out to end in {', '.join(KINDS)}, or a folder, got {folder}")
    if files > 1 and len(folders) < len(out):
        raise UserError(
            f"expected a folder as --out for {files} videos, got {out[0]}; try {out[0].with_suffix('')}"
        )
    return [path for path in out if path not in folders] + [
        folder / f"{file.stem}{kind}" for folder in folders for kind in KINDS
    ]


def _about(weights: str, detector: Detector, request: Request) -> dict[str, Any]:
    finder = {"name": detector.name, "threshold": detector.threshold, "licence": detector.licence}
    return {"weights": str(weights), "detector": finder, "every": request.every}


def _one(moments: Iterator[KeyFrame], file: Path, places: Sequence[Path], about: dict[str, Any]) -> None:
    """Print and write the key frames of one video as they come; the drawn video in a second pass."""
    drawn = [path for path in places if path.suffix.lower() == ".mp4"]
    kept: list[KeyFrame] = []
    with VideoFile(file) as video:
        head = {"video": str(file), "fps": video.fps, "frames": video.num_frames} | about
        seconds = video.num_frames / (video.fps or 25.0)
    with ExitStack() as stack:
        writers = [_writer(path, file, head, stack) for path in places if path not in drawn]
        shown = stack.enter_context(progress(file.name, max(1, round(seconds / about["every"]))))
        print(file)
        for moment in moments:
            print(_line(moment))
            for write in writers:
                write(moment)
            if drawn:
                kept.append(moment)
            shown.advance()
    for path in drawn:
        draw_video(file, kept, path)
    for path in places:
        say(f"wrote {path}")


def _line(moment: KeyFrame) -> str:
    people = "; ".join(f"{_name(actor)} {', '.join(_words(actor)) or '-'}" for actor in moment.actors)
    minutes, seconds = divmod(moment.time, 60)
    return f"  {int(minutes):3}:{seconds:05.2f}  {people or 'nobody'}"


def _words(actor: Actor) -> list[str]:
    return [f"{each.name} {100 * each.score:.0f} %" for each in actor.actions]


def _name(actor: Actor) -> str:
    return f"#{actor.actor}" if actor.actor else "#?"


def _writer(path: Path, file: Path, head: dict[str, Any], stack: ExitStack) -> Any:
    """A function that adds a key frame to a file, which takes its name when all are there."""
    stream = stack.enter_context(stack.enter_context(replacing(path)).open("w", encoding="utf-8", newline=""))
    if path.suffix.lower() == ".csv":
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(COLUMNS)

        def add_lines(moment: KeyFrame) -> None:
            for actor in moment.actors:
                head = [file.name, moment.time, *actor.box]
                for action in actor.actions:
                    lines.writerow([*head, action.name, actor.actor or "", actor.score, action.score])
                if not actor.actions:
                    lines.writerow([*head, "", actor.actor or "", actor.score, ""])

        return add_lines
    stream.write(json_text(head)[:-1] + ', "key_frames": [')
    stack.callback(stream.write, "\n]}\n")
    first = True

    def add(moment: KeyFrame) -> None:
        nonlocal first
        stream.write(("" if first else ",") + "\n" + json_text(asdict(moment)))
        first = False

    return add


def draw_video(file: Path, moments: Sequence[KeyFrame], path: Path) -> None:
    """Write the video as MP4 with every actor's box gliding from key frame to key frame, and its actions.

    Without sound. Longer sides above 1280 pixels are scaled down to that.
    """
    import av

    with VideoFile(file) as video, replacing(path) as temporary:
        fps = video.fps or 25.0
        rate = Fraction(min(fps, 60.0)).limit_denominator(1000)
        # A file of Python's own: PyAV never closes one whose last bytes could not be written.
        with temporary.open("wb") as out, av.open(out, "w", format="mp4") as container:
            stream: Any = None
            for number, decoded in video.walk(lambda _: True):
                picture, scale = _scaled(decoded)
                shown = draw_boxes(picture, list(_gliding(moments, number / fps, scale)))
                if stream is None:
                    stream = container.add_stream(
                        "libx264", rate=rate, options={"crf": "20", "preset": "veryfast"}
                    )
                    stream.width, stream.height, stream.pix_fmt = shown.shape[1], shown.shape[0], "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            if stream is not None:
                container.mux(stream.encode(None))


def _scaled(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """A picture of at most `MOST_SIDE` and of even sides, as H.264 wants them, and by how much it shrank."""
    from PIL import Image

    height, width = picture.shape[:2]
    scale = min(1.0, MOST_SIDE / max(height, width))
    size = max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2)
    if scale == 1.0:
        if min(height, width) < 2:
            picture = np.repeat(np.repeat(picture, 2, 0), 2, 1)
        return np.ascontiguousarray(picture[: size[1], : size[0]]), 1.0
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)), scale


def _gliding(moments: Sequence[KeyFrame], seconds: float, scale: float) -> Iterator[Drawn]:
    """The actors at a time between two key frames: boxes in proportion, the actions of the nearer one."""
    if not moments:
        return
    times = [moment.time for moment in moments]
    after = int(np.searchsorted(times, seconds, side="right"))
    before = moments[max(0, after - 1)]
    following = moments[min(after, len(moments) - 1)]
    gap = following.time - before.time
    share = min(1.0, max(0.0, (seconds - before.time) / gap)) if gap > 0 else 0.0
    nearer, other = (before, following) if share < 0.5 else (following, before)
    others = {actor.actor: actor for actor in other.actors if actor.actor}
    for actor in nearer.actors:
        partner = others.get(actor.actor, actor)
        weight = share if nearer is before else 1 - share
        box = np.array(actor.box) * (1 - weight) + np.array(partner.box) * weight
        lines = _words(actor)
        yield Drawn(
            (box * scale).tolist(),
            [f"{_name(actor)}  {lines[0]}" if lines else _name(actor), *lines[1:]],
            actor.actor,
        )
