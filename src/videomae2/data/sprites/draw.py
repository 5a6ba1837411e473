"""Writes sprite videos as MP4 files with a manifest, boxes at each frame and time segments.

The videos' still frames say nothing about the label: sprites of different classes differ in motion alone.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from videomae2.data.sprites.scene import SpriteSettings, draw_video
from videomae2.errors import UserError
from videomae2.files import json_text, make_folder, must_be_new, write_atomically


def encode_mp4(frames: UInt8[Tensor, "T C H W"], fps: int) -> bytes:
    """An H.264 file (yuv420p, CRF 12, a key frame every 8 frames) of these frames."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = frames.shape[3], frames.shape[2], "yuv420p"
        stream.thread_count = 1
        stream.options = {"crf": "12", "preset": "ultrafast", "g": "8", "bf": "0", "x264-params": "threads=1"}
        for picture in frames.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


UNFINISHED = ".sprites"
"""The file by which a folder is known that somebody began to draw into."""


def write_sprites(
    out: Path,
    *,
    num_videos: int,
    seed: int,
    settings: SpriteSettings | None = None,
    workers: int = 2,
    first: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write videos `first` to `first + num_videos` of a set into `out`; the path of the manifest comes back.

    manifest.csv: path, label, class. boxes.json: video -> one [T][4] list for each object, with its labels.
    key_frames.csv: the middle frame of each video, a line for each object with its box and what it does
    there. segments.json: ActivityNet's layout. The files are the same for any number of workers (threads);
    `progress` is told of each video. UserError where `out` holds a manifest.
    """
    settings = settings or SpriteSettings()
    out = Path(out)
    if num_videos < 1:
        raise UserError(f"expected at least 1 sprite video to draw, got {num_videos}")
    if (out / "manifest.csv").exists():
        raise UserError(f"{out} already holds a manifest; give another folder, or remove this one")
    if not (out / UNFINISHED).is_file():  # else it is ours, and whoever drew it was interrupted
        must_be_new(out)
    make_folder(out / "videos")
    write_atomically(out / UNFINISHED, "a set of sprites that is being drawn\n")
    rows = []
    for row in _written(
        lambda number: _write_video(out, settings, seed, number), range(first, first + num_videos), workers
    ):
        rows.append(row)
        progress(1)
    write_atomically(out / "boxes.json", json_text({row["path"]: row["objects"] for row in rows}))
    write_atomically(out / "key_frames.csv", _key_frames(rows, settings))
    write_atomically(out / "segments.json", json_text(_activitynet(rows, settings)))
    write_atomically(out / "classes.json", json_text(settings.classes))
    # Last, so that a folder with a manifest holds a whole set.
    write_atomically(out / "manifest.csv", _table(rows))
    (out / UNFINISHED).unlink()
    return out / "manifest.csv"


def _written(
    write: Callable[[int], dict[str, Any]], numbers: range, workers: int
) -> Iterator[dict[str, Any]]:
    """Each worker draws with one torch thread: pictures are too small for threads to share."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(max(1, workers), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(write, numbers)
    finally:
        torch.set_num_threads(threads)


def _write_video(out: Path, settings: SpriteSettings, seed: int, number: int) -> dict[str, Any]:
    video = draw_video(settings, seed, number)
    path = f"videos/{number:06d}.mp4"
    # Not synced, which would take as long as drawing: the manifest tells that they are complete.
    write_atomically(out / path, encode_mp4(video.frames, settings.fps), synced=False)
    objects = [
        {"boxes": sprite.boxes.tolist(), "segments": [list(part) for part in sprite.segments]}
        for sprite in video.sprites
    ]
    return {"path": path, "label": video.label, "class": settings.classes[video.label], "objects": objects}


def _activitynet(rows: list[dict[str, Any]], settings: SpriteSettings) -> dict[str, Any]:
    """The annotations as ActivityNet writes them: seconds, class names, one entry a video."""
    database = {}
    for row in rows:
        parts = [part for thing in row["objects"] for part in thing["segments"]]
        database[Path(row["path"]).stem] = {
            "duration": settings.num_frames / settings.fps,
            "subset": "all",
            "annotations": [
                {"label": settings.classes[label], "segment": [start / settings.fps, end / settings.fps]}
                for label, start, end in parts
            ],
        }
    return {"version": "sprites", "database": database}


def _key_frames(rows: list[dict[str, Any]], settings: SpriteSettings) -> str:
    """Boxes and actions at the middle frame, as an annotation file of one's own has them."""
    text, middle = io.StringIO(), settings.num_frames // 2
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "frame", "x1", "y1", "x2", "y2", "label", "actor"])
    for row in rows:
        for number, thing in enumerate(row["objects"]):
            box = [round(corner, 2) for corner in thing["boxes"][middle]]
            doing = next(label for label, start, end in thing["segments"] if start <= middle < end)
            writer.writerow([row["path"], middle, *box, settings.classes[doing], number])
    return text.getvalue()


def _table(rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["path", "label", "class"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
