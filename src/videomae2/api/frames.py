"""Frames at hand, in the forms that Python users have them, as uint8 [T, C, H, W]; and one video or many."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from videomae2.bounds import shown
from videomae2.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Video = str | Path | UInt8[Tensor, "T C h w"] | NDArray[np.uint8] | Sequence["Image"]
"""A path, or frames: a tensor [T, 3, H, W], an array [T, H, W, 3] or [T, 3, H, W], or T pictures."""

MAX_ASPECT = 64
"""Longer side by shorter side, up to which frames are cut into squares without taking all memory."""


def are_many(videos: Any) -> bool:
    """Whether this is a list of videos, not one video: anything listed but pictures and single frames."""
    return isinstance(videos, list | tuple) and not (videos and all(_is_picture(each) for each in videos))


def as_frames(video: Any) -> Tensor | None:
    """The frames of a video at hand, uint8 [T, C, H, W]; None where it is a path.

    UserError for what is neither, and for frames of another type than uint8 or of sizes that differ.
    """
    if isinstance(video, str | Path):
        return None
    if isinstance(video, list | tuple):
        frames = _stacked([_picture(each) for each in video])
    elif isinstance(video, Tensor | np.ndarray):
        frames = _tensor(video)
    else:
        raise UserError(
            f"expected a video as a path, a tensor, an array or a list of pictures, got {shown(video)}; give "
            "one of these"
        )
    return _checked(_channels_first(frames, isinstance(video, Tensor)))


def _channels_first(frames: Tensor, is_tensor: bool) -> Tensor:
    # An array is read channels last where both orders would do, as OpenCV, decord and imageio give them.
    last = frames.ndim == 4 and frames.shape[-1] == 3 and not (is_tensor and frames.shape[1] == 3)
    return frames.permute(0, 3, 1, 2) if last else frames


def _checked(frames: Tensor) -> Tensor:
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.numel():
        raise UserError(
            f"expected frames [T, 3, H, W] or [T, H, W, 3], got {list(frames.shape)}; load them with "
            "load_video"
        )
    if frames.dtype != torch.uint8:
        raise UserError(
            f"expected frames of type uint8 (0 to 255), got {str(frames.dtype).removeprefix('torch.')}; "
            "scale them to 0 .. 255 and convert them"
        )
    height, width = frames.shape[-2:]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UserError(
            f"expected frames at most {MAX_ASPECT} times as long as wide, got {height} x {width}; cut them "
            "first"
        )
    return frames


def _stacked(pictures: list[Tensor]) -> Tensor:
    if not pictures:
        raise UserError("expected the frames of a video, got an empty list; give at least one video")
    sizes = {tuple(each.shape) for each in pictures}
    if len(sizes) > 1:
        first, second = sorted(sizes)[:2]
        raise UserError(
            f"expected frames of one size, got {list(first)} and {list(second)}; bring them to one size"
        )
    return torch.stack(pictures)


def _is_picture(each: Any) -> bool:
    return (isinstance(each, Tensor | np.ndarray) and each.ndim == 3) or _is_pil(each)


def _is_pil(each: Any) -> bool:
    from PIL import Image

    return isinstance(each, Image.Image)


def _picture(each: Any) -> Tensor:
    """One frame: [H, W, 3] of a PIL image; a tensor or an array as it is."""
    if _is_pil(each):
        return torch.from_numpy(np.array(each.convert("RGB")))
    if not _is_picture(each):
        raise UserError(
            f"expected a picture as a frame of a video, got {shown(each)}; give PIL images or arrays"
        )
    return _tensor(each)


def _tensor(values: Tensor | NDArray[Any]) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError) as error:  # objects, text, dates
        raise UserError(
            f"expected frames of type uint8 (0 to 255), got an array of {values.dtype}; convert it"
        ) from error
