"""Where a clip's pixels lie in the picture they came from, so that boxes can follow."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from videomae2.errors import UserError


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels inside a frame: its first row and column, and how many of each."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def around(cls, frames: Tensor) -> "Box":
        """The whole of frames [..., H, W]."""
        return cls(0, 0, frames.shape[-2], frames.shape[-1])

    def cut(self, frames: Tensor) -> Tensor:
        """Its pixels of frames [..., H, W]: a view, not a copy."""
        return frames[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def grown(self, margin: int, frames: Tensor) -> "Box":
        """With `margin` more pixels on each side, as far as frames [..., H, W] reach."""
        top, left = max(self.top - margin, 0), max(self.left - margin, 0)
        bottom = min(self.top + self.height + margin, frames.shape[-2])
        right = min(self.left + self.width + margin, frames.shape[-1])
        return Box(top, left, bottom - top, right - left)

    def within(self, outer: "Box") -> "Box":
        """The same pixels, counted from the corner of `outer`."""
        return Box(self.top - outer.top, self.left - outer.left, self.height, self.width)


@dataclass(frozen=True)
class Placement:
    """How a clip was cut from its source: a crop, resized to `size` and perhaps mirrored left to right.

    `source` is (height, width) of the picture as displayed. The crop (top, left, height, width) is in pixels
    of the source, in fractions where the picture was resized before it was cut. `size` is (height, width) of
    the clip. RandAugment's turns, shears and slides are not part of it: a policy that moves pixels does not
    suit targets that have a place. UserError for an empty source, crop or clip.
    """

    source: tuple[int, int]
    top: int | float
    left: int | float
    height: int | float
    width: int | float
    size: tuple[int, int]
    flipped: bool = False

    def __post_init__(self) -> None:
        if min(*self.source, *self.size, self.height, self.width) <= 0:
            raise UserError(f"expected a source, a crop and a clip of at least one pixel, got {self}")

    @classmethod
    def of(
        cls,
        box: Box,
        seen: tuple[int, int],
        source: tuple[int, int],
        size: tuple[int, int],
        flipped: bool = False,
    ) -> "Placement":
        """The placement of a box cut from a picture seen at (height, width) `seen`, a resized `source`."""
        down, across = source[0] / seen[0], source[1] / seen[1]
        crop = (box.top * down, box.left * across, box.height * down, box.width * across)
        return cls(source, *crop, size, flipped)

    @classmethod
    def whole(cls, height: int, width: int) -> "Placement":
        """The placement of a clip that is its source, untouched."""
        return cls((height, width), 0, 0, height, width, (height, width))

    def to_clip(
        self, boxes: Float[Tensor, "A 4"], min_size: int | float = 1.0
    ) -> tuple[Float[Tensor, "A 4"], Bool[Tensor, "A"]]:
        """Boxes (x0, y0, x1, y1) in source pixels -> clip pixels, cut off at its edges; and which survive.

        A box survives whose part inside the clip is at least `min_size` pixels of the clip wide and high:
        less than a pixel shows nothing of what the label says.
        """
        x, y = boxes[:, 0::2], boxes[:, 1::2]
        x, y = (x - self.left) * (self.size[1] / self.width), (y - self.top) * (self.size[0] / self.height)
        if self.flipped:
            # The right edge becomes the left one, so the two also change places.
            x = self.size[1] - x.flip(-1)
        return _clipped(x, y, self.size, min_size)

    def to_source(
        self, boxes: Float[Tensor, "A 4"], min_size: int | float = 1.0
    ) -> tuple[Float[Tensor, "A 4"], Bool[Tensor, "A"]]:
        """The way back: boxes in clip pixels -> source pixels, cut off at its edges; and which survive."""
        x, y = boxes[:, 0::2], boxes[:, 1::2]
        if self.flipped:
            x = self.size[1] - x.flip(-1)
        x, y = x * (self.width / self.size[1]) + self.left, y * (self.height / self.size[0]) + self.top
        return _clipped(x, y, self.source, min_size)


def _clipped(x: Tensor, y: Tensor, size: tuple[int, int], min_size: int | float) -> tuple[Tensor, Tensor]:
    x, y = x.clamp(0, size[1]), y.clamp(0, size[0])
    survives = (x[:, 1] - x[:, 0] >= min_size) & (y[:, 1] - y[:, 0] >= min_size)
    return torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), -1), survives
