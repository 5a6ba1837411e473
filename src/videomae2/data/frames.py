"""A folder of raw frames, read like a video: numbered pictures named by a pattern."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from videomae2.data.decode import DecodeError, VideoFile, open_video
from videomae2.data.manifest import Row


class FrameFolder:
    """Pictures of a folder named by `pattern` ("img_{:05}.jpg"), numbered from 0 or 1 without gaps; same use as VideoFile.

    `num_frames` is found by bisection, so a folder of a million pictures is never listed. `fps` is 0: pictures have no
    rate. DecodeError where there is no first picture, or one cannot be read.
    """

    fps = 0.0
    constant_rate = True

    def __init__(self, folder: str, pattern: str) -> None:
        self.name = folder
        self.pattern = pattern
        try:
            self.first = 0 if os.path.exists(self._path(0)) else 1  # noqa: PTH110
        except (IndexError, KeyError, ValueError) as error:
            raise DecodeError(folder, f"frame pattern {pattern!r} is not like img_{{:05}}.jpg ({error})") from None
        if not self._exists(0):
            raise DecodeError(folder, f"holds no frame {self._path(self.first)}")
        self.num_frames = self._count()
        self.frames_decoded = 0

    def __enter__(self) -> "FrameFolder":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between pictures."""

    def read(self, indices: Sequence[int] | np.ndarray, short_side: int | None = None) -> UInt8[Tensor, "T C H W"]:
        """The pictures numbered `indices` from 0, in that order: uint8 RGB [T, C, H, W], all of the first one's size."""
        import torch

        asked = np.asarray(indices, dtype=np.int64)
        wanted, places = np.unique(asked, return_inverse=True)
        if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= self.num_frames:
            raise DecodeError(self.name, f"frames {asked.tolist()[:3]} ... were asked for; it has {self.num_frames}")
        pictures = []
        for number in wanted.tolist():
            with open_video(self._path(number + self.first)) as picture:
                pictures.append(picture.read([0], short_side)[0])
                self.frames_decoded += picture.frames_decoded
            if pictures[-1].shape != pictures[0].shape:
                raise DecodeError(
                    self._path(number + self.first),
                    f"is {list(pictures[-1].shape[1:])}, but others are {list(pictures[0].shape[1:])}",
                )
        return torch.stack(pictures)[torch.from_numpy(places)]

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """Pictures have no time; each counts as one second."""
        return np.arange(self.num_frames, dtype=np.float64)

    def _path(self, number: int) -> str:
        return str(Path(self.name) / self.pattern.format(number))

    def _exists(self, index: int) -> bool:
        return os.path.exists(self._path(index + self.first))  # noqa: PTH110

    def _count(self) -> int:
        """One more than the last index there is, supposing no gaps."""
        above = 1
        while self._exists(above):
            above *= 2
        below = above // 2
        while above - below > 1:
            middle = (above + below) // 2
            below, above = (middle, above) if self._exists(middle) else (below, middle)
        return above


def open_row(row: Row) -> VideoFile | FrameFolder:
    """Open what a manifest row names: a folder of frames where it has a pattern, else a video."""
    return FrameFolder(row.path, row.pattern) if row.pattern else open_video(row.path)
