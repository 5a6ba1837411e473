"""Large videos drawn here for the data benchmarks: a camera pans over texture, textured discs cross it, every
frame has grain.

Encoded once by x264 at its defaults (crf 23, medium, B-frames) and kept in a folder, so that a rerun finds
them.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SIZE = (1280, 720)
RATE = 30
NUM_FRAMES = 10 * RATE


def generated(folder: Path, gop: int, count: int) -> list[Path]:
    """`count` videos of 10 s at 1280 x 720, 30 frames a second, a key frame each `gop`; written where they
    are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"720p_gop{gop}_{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            print(f"encoding {path} ...", flush=True)
            _encode(path.with_suffix(".part.mp4"), gop, number)
            path.with_suffix(".part.mp4").rename(path)
    return paths


def _encode(path: Path, gop: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ground, discs = _texture(rng, 1100, 2000), [_disc(rng) for _ in range(6)]
    grain = rng.normal(0, 3, (SIZE[1] + 64, SIZE[0] + 64, 1)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": str(gop)})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        for number in range(NUM_FRAMES):
            picture = _picture(ground, discs, number) + _shifted(grain, rng)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Colour noise whose power falls with frequency, as in photographs: int16 [height, width, 3]."""
    falling = (
        1
        / np.maximum(np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]), 1 / width)
        ** 1.2
    )
    phases = rng.normal(size=(3, *falling.shape)) + 1j * rng.normal(size=(3, *falling.shape))
    noise = np.fft.irfft2(phases * falling, s=(height, width))
    noise = noise / noise.std((1, 2), keepdims=True) * 45 + 120
    texture: np.ndarray = noise.clip(0, 255).astype(np.int16).transpose(1, 2, 0)
    return texture


def _disc(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A textured disc, its outline, where it starts and how far it goes in a frame."""
    side = int(rng.integers(120, 320))
    y, x = np.mgrid[0:side, 0:side] - side / 2
    inside = (np.hypot(x, y) < side / 2)[..., None]
    return _texture(rng, side, side), inside, rng.uniform(0, 1000, 2), rng.uniform(-12, 12, 2)


def _picture(ground: np.ndarray, discs: list[Any], number: int) -> np.ndarray:
    width, height = SIZE
    top = int(190 + 180 * np.sin(number / 40))
    left = int(360 + 350 * np.sin(number / 55))
    picture = ground[top : top + height, left : left + width].copy()
    for texture, inside, start, step in discs:
        side = len(texture)
        y, x = ((start + step * number) % (np.array([height, width]) - side)).astype(int)
        part = picture[y : y + side, x : x + side]
        part[:] = np.where(inside, texture, part)
    return picture


def _shifted(grain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    y, x = rng.integers(64, size=2)
    return grain[y : y + SIZE[1], x : x + SIZE[0]]
