"""Turning a stored picture upright, by the display matrix that phones write into their videos."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Orientation:
    """What to do with a stored picture, in this order: swap rows and columns, mirror left-right, mirror
    up-down.
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
