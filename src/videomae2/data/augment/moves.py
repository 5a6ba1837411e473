"""Operations of RandAugment that move pixels: turns, shears and slides of clips, as tensor code on uint8.

What comes in from outside is grey (128). Each takes a `box` and gives only its part of the moved frames.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from videomae2.data.augment.box import Box

FILL = 128


def rotate(frames: Tensor, degrees: float, box: Box | None = None) -> Tensor:
    """Turn about the middle, anticlockwise."""
    height, width = frames.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return _affine(frames, (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y), box)


def shear_x(frames: Tensor, factor: float, box: Box | None = None) -> Tensor:
    """Slide each row by `factor` x its height."""
    return _affine(frames, (1.0, factor, 0.0), (0.0, 1.0, 0.0), box)


def shear_y(frames: Tensor, factor: float, box: Box | None = None) -> Tensor:
    """Slide each column by `factor` x its distance from the left."""
    return _affine(frames, (1.0, 0.0, 0.0), (factor, 1.0, 0.0), box)


def translate_x(frames: Tensor, share: float, box: Box | None = None) -> Tensor:
    """Slide sideways by a share of the width, in whole pixels."""
    return _slide(frames, -1, round(share * frames.shape[-1]), box)


def translate_y(frames: Tensor, share: float, box: Box | None = None) -> Tensor:
    """Slide up or down by a share of the height, in whole pixels."""
    return _slide(frames, -2, round(share * frames.shape[-2]), box)


def _slide(frames: Tensor, axis: int, pixels: int, box: Box | None) -> Tensor:
    """Take each pixel from `pixels` further along an axis, grey where that is outside."""
    moved = torch.full_like(frames, FILL)
    kept = frames.shape[axis] - abs(pixels)
    moved.narrow(axis, max(-pixels, 0), kept).copy_(frames.narrow(axis, max(pixels, 0), kept))
    return moved if box is None else box.cut(moved)


def _affine(
    frames: Tensor, to_x: tuple[float, float, float], to_y: tuple[float, float, float], box: Box | None
) -> Tensor:
    """Take the pixel at (x, y) from (a x + b y + c, d x + e y + f), bicubic as released, grey where that is
    outside.
    """
    height, width = frames.shape[-2:]
    box = box or Box.around(frames)
    rows, columns = (
        torch.arange(box.top, box.top + box.height) + 0.5,
        torch.arange(box.left, box.left + box.width) + 0.5,
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    from_x = (to_x[0] * x + to_x[1] * y + to_x[2]) * (2 / width) - 1
    from_y = (to_y[0] * x + to_y[1] * y + to_y[2]) * (2 / height) - 1
    grid = torch.stack((from_x, from_y), -1)[None]
    moved = frames.new_empty((*frames.shape[:2], box.height, box.width))
    for target, frame in zip(moved, frames, strict=True):
        taken = F.grid_sample(
            frame.to(torch.float32)[None] - FILL, grid, "bicubic", "zeros", align_corners=False
        )
        target.copy_(taken[0].add_(FILL).round_().clamp_(0, 255))
    return moved
