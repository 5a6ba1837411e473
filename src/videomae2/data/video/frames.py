"""A folder of raw frames, read like a video: numbered pictures named by a pattern."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from videomae2.data.tables.manifest import Row
from videomae2.data.video.decode import DecodeError, Kept, VideoFile, open_video


class FrameFolder:
    """Pictures of a folder named by `pattern` ("img_{:05}.jpg"), without gaps; same use as VideoFile.

    Frames are numbered as the pattern numbers them, from `start` to before `end`, as released lists do; a
    start of 0 where there is no picture 0 makes picture 1 frame 0. Without `end` the last picture is found by
    bisection, so that a folder of a million is never listed. `fps` is 0: pictures have no rate. DecodeError
    where the first is missing, or one is unreadable.
    """

    fps = 0.0
    constant_rate = True

    def __init__(self, folder: str, pattern: str, start: int = 0, end: int = -1) -> None:
        self.name, self.pattern, self.frames_decoded, self._shift = folder, pattern, 0, 0
        try:
            if start == 0 and not self._exists(0):
                self._shift = 1
        except (IndexError, KeyError, ValueError) as error:
            raise DecodeError(
                folder, f"frame pattern {pattern!r} is not like img_{{:05}}.jpg ({error})"
            ) from None
        if not self._exists(start):
            raise DecodeError(folder, f"holds no frame {pattern.format(start + self._shift)}")
        self.num_frames = end if end > 0 else self._end(start)

    def __enter__(self) -> "FrameFolder":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between pictures."""

    def read(
        self, indices: Sequence[int] | np.ndarray, short_side: int | None = None
    ) -> UInt8[Tensor, "T C H W"]:
        """The pictures numbered `indices`, in that order: uint8 RGB [T, C, H, W], all of the first one's
        size.
        """
        import torch

        wanted, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        pictures = self.collect(
            wanted, lambda picture: torch.from_numpy(picture.copy()).permute(2, 0, 1), short_side
        )
        return torch.stack(pictures)[torch.from_numpy(places)]

    def collect(
        self,
        wanted: Int64[np.ndarray, "M"],
        keep: Callable[[UInt8[np.ndarray, "H W C"]], Kept],
        short_side: int | None = None,
        at_most: bool = False,
    ) -> list[Kept]:
        """What `keep` makes of each of the pictures numbered `wanted` (ascending, none twice), one at a time;
        as of a video.
        """
        if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= self.num_frames:
            raise DecodeError(
                self.name, f"frames {wanted.tolist()[:3]} ... were asked for; it has {self.num_frames}"
            )
        kept: list[Kept] = []
        first: tuple[int, ...] = ()
        for number in wanted.tolist():
            with open_video(self._path(number)) as video:
                picture = video.collect(
                    np.zeros(1, dtype=np.int64), lambda picture: picture, short_side, at_most
                )[0]
                self.frames_decoded += video.frames_decoded
                first = first or picture.shape
                if picture.shape != first:
                    sizes = [f"{shape[0]} x {shape[1]}" for shape in (picture.shape, first)]
                    raise DecodeError(
                        self._path(number), f"is {sizes[0]} pixels, but the first picture is {sizes[1]}"
                    )
                kept.append(keep(picture))
        return kept

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """Pictures have no time; each counts as one second."""
        return np.arange(self.num_frames, dtype=np.float64)

    def _path(self, number: int) -> str:
        return str(Path(self.name) / self.pattern.format(number + self._shift))

    def _exists(self, number: int) -> bool:
        return os.path.exists(self._path(number))  # noqa: PTH110 - called for each step of the bisection

    def _end(self, start: int) -> int:
        """One more than the last number there is, supposing no gaps."""
        step = 1
        while self._exists(start + step):
            step *= 2
        below, above = start + step // 2, start + step
        while above - below > 1:
            middle = (above + below) // 2
            below, above = (middle, above) if self._exists(middle) else (below, middle)
        return above


def open_row(row: Row, threads: int = 1) -> VideoFile | FrameFolder:
    """Open what a manifest row names: a folder of frames where it has a pattern, else a video. Numbers as
    `row.start`'s.
    """
    if row.pattern:
        return FrameFolder(row.path, row.pattern, row.start, row.end)
    return open_video(row.path, threads)


def read_frames(
    source: Row | str | Path, indices: Sequence[int] | np.ndarray, short_side: int | None = None
) -> UInt8[Tensor, "T C H W"]:
    """Frames of a file, or of a manifest row counted from the row's own start: uint8 RGB [T, C, H, W]."""
    row = source if isinstance(source, Row) else Row(str(source))
    with open_row(row) as video:
        return video.read(np.asarray(indices, dtype=np.int64) + row.start, short_side)
