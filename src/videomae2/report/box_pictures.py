"""Pictures with boxes and what the actors in them do; and the key frames that cost a detector most."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from videomae2.data.video.decode import open_video
from videomae2.data.video.opening import UNREADABLE
from videomae2.report.charts import COLOURS, picture_png
from videomae2.report.page import Block, Note, Strips

SHOWN_HEIGHT = 300
"""Height in pixels of a picture in a report."""


@dataclass(frozen=True)
class Drawn:
    """A box (x0, y0, x1, y1) in pixels of the picture, with lines of text above it and a colour by number."""

    box: Sequence[float | int]
    lines: Sequence[str]
    colour: int = 0
    thin: bool = False


def draw_boxes(picture: UInt8[np.ndarray, "H W C"], actors: Sequence[Drawn]) -> UInt8[np.ndarray, "H W C"]:
    """The picture with boxes and labels, which stay inside it and move apart where they would overlap."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(np.ascontiguousarray(picture))
    draw = ImageDraw.Draw(image, "RGBA")
    height, width = picture.shape[:2]
    stroke, size = max(1, round(min(height, width) / 180)), max(9, round(min(height, width) / 24))
    font = _font(size)
    taken: list[tuple[float, float, float, float]] = []
    for each in actors:
        colour = COLOURS[each.colour % len(COLOURS)]
        x0, y0, x1, y1 = each.box
        inner = 1 if each.thin else stroke
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=inner)
        text = "\n".join(each.lines)
        if not text:
            continue
        left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font, spacing=1)
        wide, tall = right - left + 6, bottom - top + 4
        x = min(max(0.0, float(x0)), max(0.0, width - wide))
        # Above the box where there is room, else inside its top: never beyond the picture.
        y = y0 - tall if y0 >= tall else float(y0)
        while (
            any(x < b[2] and b[0] < x + wide and y < b[3] and b[1] < y + tall for b in taken)
            and y + 2 * tall < height
        ):
            y += tall
        taken.append((x, y, x + wide, y + tall))
        draw.rectangle((x, y, x + wide, y + tall), fill=(*bytes.fromhex(colour[1:]), 190))
        draw.multiline_text((x + 3 - left, y + 2 - top), text, fill="white", font=font, spacing=1)
    return np.array(image)  # a copy: a view of the picture could not be written to


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def hardest_blocks(path: str | Path) -> list[Block]:
    """The pictures of `hardest.json`, which an evaluation wrote; none where it is not there.

    Annotated boxes are drawn thick with what they are, scored ones thin with what was found.
    """
    path = Path(path)
    if not path.is_file():
        return []
    frames = json.loads(path.read_text(encoding="utf-8"))
    blocks: list[Block] = []
    for frame in frames:
        picture = _picture(frame)
        if picture is not None:
            caption = f"{frame['title']}; cost {frame['cost']:.2f}"
            png = picture_png(torch.from_numpy(picture).permute(2, 0, 1))
            blocks.append(Strips("", [("", [png])], caption, half=True))
    text = (
        "Key frames of the last evaluation that cost most: what annotated actions lack, and what other "
        "actions have. Blue: annotated. Orange: the best actions of the boxes that were scored."
    )
    return [Note("Hardest key frames", text), *blocks] if blocks else []


def _picture(frame: dict[str, Any]) -> np.ndarray | None:
    """A key frame with its boxes; None where its video is gone."""
    try:
        with open_video(frame["path"]) as video:
            key = frame["key"] if frame["time"] < 0 else int(frame["time"] * video.fps + 0.5)
            shown = video.read([min(max(key, 0), video.num_frames - 1)])[0]
    except UNREADABLE:  # the run is finished: a video that is gone must not cost its report
        return None
    height, width = shown.shape[-2:]
    scale = SHOWN_HEIGHT / height
    large = torch.nn.functional.interpolate(
        shown[None].contiguous(),
        (SHOWN_HEIGHT, max(1, round(width * scale))),
        mode="bilinear",
        antialias=True,
    )[0]
    sides = np.array([width, height, width, height]) if frame["shares"] else np.ones(4)
    truth = [
        Drawn((np.array(each["box"]) * sides * scale).tolist(), [", ".join(each["actions"])], 0)
        for each in frame["truth"]
    ]
    found = [
        Drawn(
            (np.array(each["box"]) * sides * scale).tolist(),
            [f"{name} {100 * score:.0f} %" for name, score in each["actions"]],
            1,
            thin=True,
        )
        for each in frame["found"]
    ]
    return draw_boxes(large.permute(1, 2, 0).numpy(), [*truth, *found])
