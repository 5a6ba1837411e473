"""A reconstruction as a labelled, enlarged film or picture: MP4, GIF or PNG, by the ending of its name."""

import io
import textwrap
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from videomae2.api.views import Reconstruction, enlarge, strip
from videomae2.bounds import shown
from videomae2.data import file_names
from videomae2.data.video.decode import probe
from videomae2.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

Frames = UInt8[np.ndarray, "T H W C"]

PANEL, ROW = 224, 112
"""Pixels of height to which small clips are enlarged: beside each other in a film, in rows of a picture."""
ROW_FRAMES = 8
"""Frames of a row, evenly spread over the clip."""
LEAST_SECONDS = 4
"""An MP4 repeats the clip until it lasts this long: a clip of 16 frames is over in a blink."""
MARGIN, GAP, LINE = 12, 6, 22
INK, SOFT, GROUND = (29, 39, 51), (95, 107, 122), (255, 255, 255)
MADE_BY = "videomae2 reconstruct"
"""Written into each file, so that a later one replaces none that is somebody else's."""


def save_reconstruction(found: Reconstruction, path: str | Path, fps: float = 8.0, title: str = "") -> Path:
    """Write a reconstruction: its clips beside each other (.mp4, .gif) or as rows of frames (.png).

    `fps` are frames a second; `title` goes above. Whole or not at all. UserError: another ending, or another
    program's file at `path`.
    """
    path = Path(path)
    must_be_ours(path)
    heading = [title] if title else []
    notes = [f"loss on the hidden cubes: {found.error:.3f}{_borrowed(found)}"]
    with replacing(path) as temporary:
        WRITERS[path.suffix.lower()](found, temporary, fps, (heading, notes))
    return path


def shown_rate(file: str | Path, stride: int, target_fps: float) -> float:
    """Frames a second at which a sampled clip moves as in the file, kept within 2 to 30."""
    fps = (target_fps or probe(file).fps or 25.0) / max(1, stride)
    return min(30.0, max(2.0, fps))


def must_be_ours(path: Path) -> None:
    """UserError for an ending that is none of `WRITERS`, and where a file that is not ours is there."""
    file_names.must_be_ours(
        path,
        WRITERS,
        lambda there: _made_by(there) == MADE_BY,
        "a reconstruction",
        "is no reconstruction of ours; give another name, or remove it",
    )


def _made_by(path: Path) -> str:
    """Which program says that it made a picture or film; empty where none does."""
    import av
    from PIL import Image

    try:
        if path.suffix.lower() == ".mp4":
            with av.open(str(path)) as container:
                return str(container.metadata.get("comment", ""))
        with Image.open(path) as picture:
            said = picture.info.get("comment", picture.info.get("Software", ""))
            return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    except Exception:  # whatever a file of somebody else provokes in a decoder
        return ""


def _borrowed(found: Reconstruction) -> str:
    # Three are always there; a fourth shows what a reconstruction of normalised targets borrows.
    if len(found.clips) == 3:
        return ""
    return " (1.0: knows nothing). Hidden cubes have the mean and contrast of the true ones."


# ---- layout

Words = tuple[list[str], list[str]]
"""Lines above, and lines below."""


def _film(found: Reconstruction, words: Words) -> Frames:
    """The clips beside each other, their names above: [T, H, W, C]."""
    clips = {name: _pixels(enlarge(clip, PANEL)) for name, clip in found.clips.items()}
    count, height, width = next(iter(clips.values())).shape[:3]
    widths = len(clips) * width + (len(clips) - 1) * GAP + 2 * MARGIN
    canvas, top = _canvas(widths, height + LINE, words)
    film = np.repeat(canvas[None], count, axis=0)
    for place, (name, clip) in enumerate(clips.items()):
        left = MARGIN + place * (width + GAP)
        _write(film[0], (left, top), name)
        film[:, top : top + LINE] = film[:1, top : top + LINE]
        film[:, top + LINE : top + LINE + height, left : left + width] = clip
    return film


def _rows(found: Reconstruction, words: Words) -> UInt8[np.ndarray, "H W C"]:
    """A row of frames for each clip, its name on the left: [H, W, C]."""
    strips = {
        name: _pixels(strip(enlarge(clip, ROW), ROW_FRAMES, gap=GAP)[None])[0]
        for name, clip in found.clips.items()
    }
    height, width = next(iter(strips.values())).shape[:2]
    aside = max(_length(name) for name in strips) + MARGIN
    tall = len(strips) * height + (len(strips) - 1) * GAP
    canvas, top = _canvas(width + aside + 2 * MARGIN, tall, words)
    for place, (name, row) in enumerate(strips.items()):
        y = top + place * (height + GAP)
        _write(canvas, (MARGIN, y + height // 2 - LINE // 2), name)
        canvas[y : y + height, MARGIN + aside : MARGIN + aside + width] = row
    return canvas


def _canvas(width: int, height: int, words: Words) -> tuple[UInt8[np.ndarray, "H W C"], int]:
    """A white picture with its words, and where the `height` pixels between them begin."""
    above, below = (_wrapped(lines, width - 2 * MARGIN) for lines in words)
    total = 2 * MARGIN + LINE * (len(above) + len(below)) + height + (GAP if below else 0)
    canvas = np.full((total, width, 3), GROUND, dtype=np.uint8)
    top = MARGIN + LINE * len(above)
    for place, line in enumerate(above):
        _write(canvas, (MARGIN, MARGIN + place * LINE), line)
    for place, line in enumerate(below):
        _write(canvas, (MARGIN, top + height + GAP + place * LINE), line, SOFT)
    return canvas, top


def _write(
    canvas: UInt8[np.ndarray, "H W C"], at: tuple[int, int], text: str, colour: tuple[int, int, int] = INK
) -> None:
    """Draw one line of text into a picture, its upper left corner at `at` (x, y)."""
    from PIL import Image, ImageDraw

    x, y = at
    height, width = canvas.shape[:2]
    part = Image.fromarray(canvas[y : min(y + LINE, height), x:width].copy())
    ImageDraw.Draw(part).text((0, 2), text, fill=colour, font=_font())
    canvas[y : min(y + LINE, height), x:width] = np.asarray(part)


@cache
def _font() -> "FreeTypeFont":
    from PIL import ImageFont

    return ImageFont.load_default(size=15)  # type: ignore[return-value]


def _length(text: str) -> int:
    return int(_font().getlength(text)) + 1


def _wrapped(lines: list[str], width: int) -> list[str]:
    """The lines, broken at spaces where they are wider than `width` pixels."""
    a_character = max(1, _length("abcdefghij klmnop") // 17)
    most = max(10, width // a_character)
    return [part for line in lines for part in textwrap.wrap(shown(line)[1:-1], most)]


def _pixels(clip: UInt8[Tensor, "T C H W"]) -> Frames:
    return clip.permute(0, 2, 3, 1).contiguous().cpu().numpy()


# ---- files


def _write_png(found: Reconstruction, path: Path, _: float, words: Words) -> None:
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("Software", MADE_BY)
    _image(_rows(found, words)).save(path, "PNG", pnginfo=about)


def _write_gif(found: Reconstruction, path: Path, fps: float, words: Words) -> None:
    first, *others = [_image(frame) for frame in _film(found, words)]
    milliseconds = max(20, round(1000 / fps))  # players take anything below 20 for 100
    first.save(
        path, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, comment=MADE_BY
    )


def _write_mp4(found: Reconstruction, path: Path, fps: float, words: Words) -> None:
    write_mp4(torch.from_numpy(_film(found, words)).permute(0, 3, 1, 2), fps, path)


def write_mp4(frames: UInt8[Tensor, "T C H W"], fps: float, path: Path) -> None:
    """Write frames as H.264; odd sides gain a light pixel, short clips repeat."""
    import av

    height, width = frames.shape[-2:]
    frames = torch.nn.functional.pad(frames, (0, width % 2, 0, height % 2), value=255)
    rate = Fraction(fps).limit_denominator(1000)
    repeats = max(1, round(LEAST_SECONDS * float(rate) / len(frames)))
    # Into memory first: PyAV never closes a file whose last bytes could not be written.
    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as container:
        container.metadata["comment"] = MADE_BY
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[3], frames.shape[2], "yuv420p"
        for picture in np.tile(_pixels(frames), (repeats, 1, 1, 1)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(film.getvalue())


def _image(picture: UInt8[np.ndarray, "H W C"]) -> "Image":
    from PIL import Image

    return Image.fromarray(picture)


WRITERS: Mapping[str, Callable[[Reconstruction, Path, float, Words], None]] = {
    ".mp4": _write_mp4,
    ".gif": _write_gif,
    ".png": _write_png,
}
"""What a reconstruction is written as, by the ending of the name."""
