"""Position tables: the released sinusoid over the flattened grid, interpolated in 3-D to any other grid; and
one by axes.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from videomae2.geometry import TokenGrid

AXIS_BASE = 100.0
"""Of the table by axes: a grid has at most some dozens of steps along an axis, where 10000 leaves most
channels constant.
"""


def position_table(
    grid: TokenGrid, native: TokenGrid, width: int, kind: str = "sinusoid"
) -> Float[Tensor, "N D"]:
    """The table of `native`, bit-equal to the released one, brought to `grid`; with kind "axes" the table by
    axes.
    """
    if kind == "axes":
        return by_axes(grid.shape, native.shape, width)
    return interpolate(sinusoid(native.num_tokens, width), native.shape, grid.shape)


def sinusoid(count: int, width: int) -> Float[Tensor, "N D"]:
    """sin and cos interleaved, base 10000, over the flattened token number, computed in float64
    (released).
    """
    rate = np.power(10000.0, 2 * (np.arange(width) // 2) / width)
    angle = np.arange(count)[:, None] / rate
    angle[:, 0::2] = np.sin(angle[:, 0::2])
    angle[:, 1::2] = np.cos(angle[:, 1::2])
    return torch.from_numpy(angle.astype(np.float32))


def by_axes(shape: tuple[int, int, int], native: tuple[int, int, int], width: int) -> Float[Tensor, "N D"]:
    """A sinusoid of each of t, h, w in a third of the channels (ours; even thirds, time takes the rest).

    Neighbours in space and time are alike from the start, which networks too small or too briefly trained to
    find that out from the released table need. Coordinates are those of `native` over the same extent.
    """
    third = width // 6 * 2
    tables = []
    for side, native_side, channels in zip(shape, native, (width - 2 * third, third, third), strict=True):
        places = (np.arange(side) + 0.5) * native_side / side - 0.5
        angle = places[:, None] / np.power(AXIS_BASE, 2 * (np.arange(channels) // 2) / channels)
        tables.append(np.where(np.arange(channels) % 2 == 0, np.sin(angle), np.cos(angle)))
    t, h, w = (
        np.broadcast_to(np.expand_dims(each, tuple({0, 1, 2} - {axis})), (*shape, each.shape[1]))
        for axis, each in enumerate(tables)
    )
    return torch.from_numpy(np.concatenate((t, h, w), axis=-1).reshape(-1, width).astype(np.float32))


def interpolate(
    table: Float[Tensor, "N D"], native: tuple[int, int, int], shape: tuple[int, int, int]
) -> Float[Tensor, "M D"]:
    """A table of a (t, h, w) grid on another grid over the same extent, linearly in each axis; itself on its
    own grid.
    """
    if native == shape:
        return table
    volume = table.T.unflatten(1, native)[None]
    return F.interpolate(volume, shape, mode="trilinear", align_corners=False)[0].flatten(1).T.contiguous()
