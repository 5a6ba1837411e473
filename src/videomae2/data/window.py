"""From a manifest row to what a clip needs of its frames: which ones, each decoded once and made smaller at
once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from videomae2.data import sampling
from videomae2.data.tables.manifest import Manifest
from videomae2.data.video.decode import DecodeError, VideoFile
from videomae2.data.video.frames import FrameFolder, open_row
from videomae2.data.video.opening import UNREADABLE, why_unreadable
from videomae2.records import Failure
from videomae2.settings import DataSettings

TOGETHER_BYTES = 16 << 20
"""Pictures of one row up to this size are resized in one call, which costs less than a call for each."""


@dataclass(frozen=True)
class Window:
    """What was made of each frame that is wanted, once, [1, C, h, w] by part and frame; and which of them
    each place shows.
    """

    parts: list[list[Tensor]]
    places: Tensor


def read_window(
    manifest: Manifest,
    number: int,
    data: DataSettings,
    draw: Callable[[int, int], np.ndarray],
    shrink: Callable[[Tensor], list[Tensor]],
    *,
    short_side_at_most: int | None = None,
) -> Window | Failure:
    """The parts that `shrink` makes of the frames [N, C, H, W] that `draw(count, stride)` picks from a row,
    from one opening.

    Frames with a short side above `short_side_at_most` are scaled to it while they become RGB, for a tenth of
    what a resize of the RGB costs.
    """
    row = manifest.row(number)
    try:
        with open_row(row) as video:
            first, last = row.start, video.num_frames if row.end < 0 else min(row.end, video.num_frames)
            if first >= last:
                return Failure(
                    number, row.path, f"the row begins at frame {row.start}, but there are {video.num_frames}"
                )
            stride = row.stride or data.stride
            if data.target_fps > 0:
                ticks = _ticks(video, first, last, data.target_fps)
                indices = ticks[draw(len(ticks), stride)]
            else:
                indices = first + draw(last - first, stride)
            wanted, places = np.unique(indices, return_inverse=True)
            return Window(_shrunk(video, wanted, shrink, short_side_at_most), torch.from_numpy(places))
    except UNREADABLE as error:
        return Failure(number, row.path, why_unreadable(error))


def _shrunk(
    video: VideoFile | FrameFolder,
    wanted: np.ndarray,
    shrink: Callable[[Tensor], list[Tensor]],
    bound: int | None,
) -> list[list[Tensor]]:
    """By part and frame: few small pictures are shrunk together; large ones each at once, while the
    processor's cache has it.
    """

    def keep(picture: UInt8[np.ndarray, "H W C"]) -> np.ndarray | list[Tensor]:
        return (
            picture
            if len(wanted) * picture.nbytes <= TOGETHER_BYTES
            else shrink(_channels_first(picture[None]))
        )

    kept = video.collect(wanted, keep, bound, at_most=True)
    if isinstance(kept[0], np.ndarray):
        return [list(part.split(1)) for part in shrink(_channels_first(np.stack(kept)))]
    return [list(part) for part in zip(*kept, strict=True)]


def _channels_first(pictures: UInt8[np.ndarray, "N H W C"]) -> UInt8[Tensor, "N C H W"]:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


def _ticks(video: VideoFile | FrameFolder, first: int, last: int, target_fps: float) -> np.ndarray:
    """Frame numbers on show at each tick of `target_fps` within a stretch; by timestamps where the rate
    varies.
    """
    if video.constant_rate and video.fps <= 0:
        raise DecodeError(
            video.name, "says no frame rate, so its frames cannot be taken by time; set data.target_fps 0"
        )
    if video.constant_rate:
        return first + sampling.by_time(last - first, video.fps, target_fps)
    return first + sampling.by_timestamps(video.timestamps()[first:last], target_fps)
