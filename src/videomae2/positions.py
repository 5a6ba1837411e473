"""Position tables: the released sinusoid over the flattened grid, in 3-D for any other; and one by axes."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from videomae2.geometry import TokenGrid

BASE = 10000.0
"""Base of the released sinusoid, which counts flattened token numbers in the thousands."""
AXIS_BASE = 100.0
"""Base of the table by axes (ours): over an axis's dozens of steps 10000 leaves most channels constant."""


def position_table(
    grid: TokenGrid, native: TokenGrid, width: int, kind: str = "sinusoid"
) -> Float[Tensor, "N D"]:
    """Table of `grid` for embedding width D: the sinusoid of `native`, interpolated; or "axes", that by axes.

    On the native grid itself the sinusoid is bit-equal to the released table.
    """
    if kind == "axes":
        return by_axes(grid.shape, native.shape, width)
    return interpolate(sinusoid(native.num_tokens, width), native.shape, grid.shape)


def sinusoid(count: int, width: int) -> Float[Tensor, "N D"]:
    """Sine and cosine interleaved, over the flattened token number (released)."""
    # In float64 and rounded once, as released: in float32 the angles of late tokens lose digits.
    rate = np.power(BASE, 2 * (np.arange(width) // 2) / width)
    angle = np.arange(count)[:, None] / rate
    angle[:, 0::2] = np.sin(angle[:, 0::2])
    angle[:, 1::2] = np.cos(angle[:, 1::2])
    return torch.from_numpy(angle.astype(np.float32))


def by_axes(shape: tuple[int, int, int], native: tuple[int, int, int], width: int) -> Float[Tensor, "N D"]:
    """A sinusoid of each of t, h, w in a third of the channels (ours).

    Thirds are even, for pairs of sine and cosine; time takes what remains. Neighbours in space and time have
    similar codes from the start, which networks too small, or trained too briefly, do not learn from the
    released table. `shape` covers the same extent as `native`, whose steps are the unit of the coordinates.
    """
    third = width // 6 * 2  # even
    tables = []
    for side, native_side, channels in zip(shape, native, (width - 2 * third, third, third), strict=True):
        places = (np.arange(side) + 0.5) * native_side / side - 0.5  # cell centres, in native steps
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
    """Resample a table of a (t, h, w) grid to another grid over the same extent, linearly in each axis.

    On its own grid the table itself comes back. The released code resamples nothing: at another size its
    table, over flattened numbers, puts every token in the wrong place.
    """
    if native == shape:
        return table
    volume = table.T.reshape(1, -1, *native)
    # Without aligned corners, so that a cell's centre lies where it does in the clip; contiguous, because the
    # table is added to every batch of tokens.
    return F.interpolate(volume, shape, mode="trilinear", align_corners=False)[0].flatten(1).T.contiguous()
