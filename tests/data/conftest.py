"""Small videos written on the spot, in which every frame tells its own number."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest


def numbered_picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture of 12 bits of `number` as black and white cells."""
    cells = np.array([number >> bit & 1 for bit in range(12)], dtype=np.uint8).reshape(3, 4) * 255
    picture = np.kron(cells, np.ones((height // 3, width // 4), np.uint8))
    return np.repeat(picture[..., None], 3, axis=2)


def read_numbers(frames: Any) -> list[int]:
    """The numbers that frames [T, C, H, W] show."""
    shades = frames.float().mean(1)
    height, width = shades.shape[1] // 3, shades.shape[2] // 4
    centres = shades[:, height // 2 :: height, width // 2 :: width][:, :3, :4].reshape(len(shades), 12)
    return [sum(int(shade > 128) << bit for bit, shade in enumerate(row)) for row in centres.tolist()]


@pytest.fixture(scope="session")
def write_numbered() -> Callable[..., Path]:
    """`write_numbered(path, codec=..., times=..., bf="3")` writes a video whose frame n shows n."""

    def write(
        path: Path,
        *,
        num_frames: int = 60,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        rate: int = 30,
        times: Sequence[int] | None = None,
        gop: int = 12,
        size: tuple[int, int] = (64, 48),
        rotation: int = 0,
        movflags: str = "",
        **options: str,
    ) -> Path:
        with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
            stream: Any = container.add_stream(
                codec, rate=rate, options=options
            )  # of which kind, PyAV cannot say
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.codec_context.gop_size = gop
            stream.codec_context.time_base = Fraction(1, rate)
            if rotation:
                stream.set_display_rotation(rotation)
            for number in range(num_frames):
                frame = av.VideoFrame.from_ndarray(numbered_picture(number, *size), format="rgb24")
                frame.pts, frame.time_base = (
                    (times[number] if times is not None else number),
                    Fraction(1, rate),
                )
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def numbers_of() -> Callable[[Any], list[int]]:
    """Reads back the numbers of frames written by `write_numbered`."""
    return read_numbers
