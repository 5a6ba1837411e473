"""Clips <-> cubes of pixels: gather the cubes of chosen tokens out of a clip, and paste them back."""

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from videomae2.errors import UserError
from videomae2.geometry import TokenGrid

Frames = UInt8[Tensor, "B T C H W"] | Float[Tensor, "B T C H W"]
"""A batch of clips: uint8, or float in [0, 1]."""


def gather_cubes(
    frames: Frames, grid: TokenGrid, tokens: Int[Tensor, "B S"] | None = None
) -> Shaped[Tensor, "B S C t p q"]:
    """Gather the cubes of `tokens` (None: of all, in raster order) with their dtype and values.

    The axes of a cube are channel, frame, row, column, as in the weight of a 3-D convolution. UserError where
    the clips are not the grid's.
    """
    grid.check_clip(tuple(frames.shape))
    if tokens is not None:
        # One indexed copy of the chosen pixels: cutting the whole clip first would copy all of it, of which
        # the encoder of pre-training sees a tenth.
        runs = _runs(grid, tokens)
        return frames.reshape(-1, grid.patch).index_select(0, runs.flatten()).view(*runs.shape, grid.patch)
    batch, (steps, rows, columns) = frames.shape[0], grid.shape
    cut = frames.reshape(batch, steps, grid.tubelet, grid.channels, rows, grid.patch, columns, grid.patch)
    return cut.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(1, 3)


def _runs(grid: TokenGrid, tokens: Tensor) -> Tensor:
    """Index [B, S, C, t, p] of each row of each cube in the batch seen as [-1, patch].

    A row of a cube is `patch` contiguous pixels, the longest piece that index_select can copy at once.
    """
    _, rows, columns = grid.shape
    sample, channel, frame, line = (
        torch.arange(count, device=tokens.device).view(-1, *[1] * trailing)
        for count, trailing in ((tokens.shape[0], 4), (grid.channels, 2), (grid.tubelet, 1), (grid.patch, 0))
    )
    token = tokens[..., None, None, None]
    step, row, column = token // grid.tokens_per_step, token // columns % rows, token % columns
    picture = (sample * grid.num_frames + step * grid.tubelet + frame) * grid.channels + channel
    return (picture * grid.height + row * grid.patch + line) * columns + column


def cubes(
    frames: Frames, grid: TokenGrid, tokens: Int[Tensor, "B S"] | None = None
) -> Float[Tensor, "B S P"]:
    """Cubes of `tokens` (None: of all) as vectors of P values in [0, 1], in the released order."""
    return unit_range(flatten_cubes(gather_cubes(frames, grid, tokens)))


def flatten_cubes(values: Shaped[Tensor, "B S C t p q"]) -> Shaped[Tensor, "B S P"]:
    """Flatten cubes to vectors in the released order: frame, row, column, with the channel fastest."""
    return values.permute(0, 1, 3, 4, 5, 2).flatten(2)


def unit_range(values: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Convert uint8 to float32 in [0, 1]; floats keep their values, in float32 at least."""
    if values.dtype == torch.uint8:
        return values / 255
    # Statistics of half-precision pixels would lose digits; float64 stays, for exact tests.
    return values if values.dtype == torch.float64 else values.float()


def paste(
    values: Float[Tensor, "B S P"],
    tokens: Int[Tensor, "B S"],
    grid: TokenGrid,
    canvas: Float[Tensor, "B T C H W"] | None = None,
) -> Float[Tensor, "B T C H W"]:
    """Put cubes at their tokens into a copy of `canvas` (None: a black clip); the inverse of `cubes`.

    UserError where a cube has another number of values than the grid's.
    """
    batch, size = values.shape[0], values.shape[2]
    if size != grid.cube_values:
        raise UserError(
            f"expected cubes of {grid.cube_values} values for the grid {grid}, got {size}; use the grid that "
            "they were cut with"
        )
    if canvas is None:
        canvas = values.new_zeros(grid.clip_shape(batch))
    # Cube by cube, in the layout of the values, and the layout of a clip at the end.
    whole = flatten_cubes(gather_cubes(canvas, grid)).to(values.dtype)
    whole = whole.scatter(1, tokens[..., None].expand(-1, -1, size), values)
    steps, rows, columns = grid.shape
    cut = whole.reshape(batch, steps, rows, columns, grid.tubelet, grid.patch, grid.patch, grid.channels)
    return cut.permute(0, 1, 4, 7, 2, 5, 3, 6).reshape(grid.clip_shape(batch))
