"""Position tables: the released sinusoid over the flattened grid, interpolated in 3-D to any other grid."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from videomae2.geometry import TokenGrid


def position_table(grid: TokenGrid, native: TokenGrid, width: int) -> Float[Tensor, "N D"]:
    """The table of `native`, bit-equal to the released one, brought to `grid`."""
    return interpolate(sinusoid(native.num_tokens, width), native.shape, grid.shape)


def sinusoid(count: int, width: int) -> Float[Tensor, "N D"]:
    """sin and cos interleaved, base 10000, over the flattened token number, computed in float64 (released)."""
    rate = np.power(10000.0, 2 * (np.arange(width) // 2) / width)
    angle = np.arange(count)[:, None] / rate
    angle[:, 0::2] = np.sin(angle[:, 0::2])
    angle[:, 1::2] = np.cos(angle[:, 1::2])
    return torch.from_numpy(angle.astype(np.float32))


def interpolate(table: Float[Tensor, "N D"], native: tuple[int, int, int], shape: tuple[int, int, int]) -> Float[Tensor, "M D"]:
    """A table of a (t, h, w) grid on another grid over the same extent, linearly in each axis; itself on its own grid."""
    if native == shape:
        return table
    volume = table.T.unflatten(1, native)[None]
    return F.interpolate(volume, shape, mode="trilinear", align_corners=False)[0].flatten(1).T.contiguous()
