"""Sliding windows of a whole video: every frame decoded and prepared once, in one pass and little memory."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from videomae2.data.augment.crops import view_crops
from videomae2.data.video.decode import VideoFile
from videomae2.errors import UserError


@dataclass(frozen=True)
class Cutting:
    """How windows are cut: `num_frames` frames, `step` apart, a window every `stride` frames of the video.

    size: height and width in pixels. squash: bring the whole picture to a square, as the released extraction
    does; otherwise the short side is brought to `size` and the middle square is taken.
    """

    num_frames: int
    step: int
    stride: int
    size: int
    squash: bool = False

    def __post_init__(self) -> None:
        for name in ("num_frames", "step", "stride", "size"):
            if getattr(self, name) < 1:
                raise UserError(f"expected {name} of at least 1, got {getattr(self, name)}")

    @property
    def span(self) -> int:
        """Frames of the video from the first to the last of a window."""
        return (self.num_frames - 1) * self.step + 1

    def count(self, frames: int) -> int:
        """How many windows a video of so many frames has; one that is shorter than a window has one."""
        return max(0, frames - self.span) // self.stride + 1

    def shows(self, number: int) -> bool:
        """Whether any window shows this frame."""
        first = max(0, -(-(number - self.span + 1) // self.stride))
        starts = range(first * self.stride, number + 1, self.stride)
        return any((number - start) % self.step == 0 for start in starts)

    def prepare(self, picture: UInt8[np.ndarray, "H W C"]) -> UInt8[Tensor, "C S S"]:
        """A frame as the network sees it."""
        frame = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        if not self.squash:
            return view_crops(frame, self.size, 1)[0][0][0]
        squashed = F.interpolate(frame.float(), (self.size, self.size), mode="bilinear", align_corners=False)
        return squashed.round().clamp(0, 255).to(torch.uint8)[0]


def windows(video: VideoFile, cutting: Cutting) -> Iterator[UInt8[Tensor, "T C S S"]]:
    """The windows of a video in order; a video that is shorter than one repeats its last frame.

    DecodeError where the video breaks off.
    """
    held: deque[Tensor | None] = deque(maxlen=cutting.span)
    end, given = cutting.span - 1, 0
    number = -1
    # The last frame too, which may have to stand for those that a short video lacks.
    last = video.num_frames - 1
    for number, picture in video.pictures(lambda each: each == last or cutting.shows(each)):
        held.append(None if picture is None else cutting.prepare(picture))
        if number == end:
            yield _stacked(held, cutting)
            end, given = end + cutting.stride, given + 1
    if not given and number >= 0:
        yield _stacked(deque([*held, *[held[-1]] * (cutting.span - len(held))]), cutting)


def _stacked(held: "deque[Tensor | None]", cutting: Cutting) -> UInt8[Tensor, "T C S S"]:
    shown = [each for place, each in enumerate(held) if place % cutting.step == 0]
    return torch.stack([each for each in shown if each is not None])
