"""From a decoder's frame to an RGB picture that stands upright and has the wanted size."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8


@dataclass(frozen=True)
class Orientation:
    """What to do with a stored picture, in this order: swap rows and columns, mirror left-right, up-down.

    Phones store pictures as the sensor lies and write a display matrix beside them.
    """

    transpose: bool = False
    mirror: bool = False
    upend: bool = False

    @classmethod
    def of(cls, frame: Any) -> "Orientation":
        """The orientation of a decoded frame: (x, y) goes to (a x + c y, b x + d y) by its display matrix."""
        side = frame.side_data.get("DISPLAYMATRIX")
        if side is None:
            return cls()
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side))
        if abs(b) > abs(a):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    @property
    def degrees(self) -> int:
        """The turn, clockwise; mirrored pictures count as the turn that goes with a left-right mirror."""
        if self.transpose:
            return 90 if self.mirror else 270
        return 180 if self.upend else 0

    def displayed(self, width: int, height: int) -> tuple[int, int]:
        """Width and height on the screen of a picture stored with these."""
        return (height, width) if self.transpose else (width, height)

    def upright(self, picture: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H2 W2 C"]:
        """The picture as it is to be seen (a view, not a copy)."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        if self.mirror:
            picture = picture[:, ::-1]
        return picture[::-1] if self.upend else picture


class Converter:
    """Makes RGB pictures of a stream's frames, all of one size.

    `short_side` scales while the colours are converted, so that the shorter side has that many pixels; with
    `at_most`, only where it has more. `source` is (height, width) of the first frame as displayed, unscaled.
    """

    def __init__(self, short_side: int | None = None, at_most: bool = False) -> None:
        self.source = (0, 0)
        self._short_side, self._at_most = short_side, at_most
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> UInt8[np.ndarray, "H W C"]:
        """The frame as RGB; a view where the decoder's memory allows it, so to be copied by who keeps it."""
        turn = Orientation.of(frame)
        if self._size is None:
            self._size = self._displayed_size(frame, turn)
        width, height = turn.displayed(*self._size)
        rgb = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        plane = rgb.planes[0]
        # FFmpeg pads each line to a multiple of its vector width.
        lines = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
        return turn.upright(lines[:height, : width * 3].reshape(height, width, 3))

    def _displayed_size(self, frame: Any, turn: Orientation) -> tuple[int, int]:
        """Width and height of every picture: a stream that changes its size midway keeps the first."""
        size = frame.width, frame.height
        width, height = turn.displayed(*size)
        self.source = height, width
        if self._short_side is not None and not (self._at_most and min(size) <= self._short_side):
            size = _scaled(*size, self._short_side)
        return turn.displayed(*size)


def _scaled(width: int, height: int, short_side: int) -> tuple[int, int]:
    """The same shape with a shorter side of `short_side`; the longer rounds down, as released."""
    if width <= height:
        return short_side, int(height * short_side / width)
    return int(width * short_side / height), short_side
