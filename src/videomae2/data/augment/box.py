"""A rectangle of pixels inside a frame."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Box:
    """Its first row and column, and how many of each."""

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
