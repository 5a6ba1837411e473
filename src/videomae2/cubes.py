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
    """The cubes of `tokens` (None: all, in raster order), untouched in type and value; no other pixel is
    copied.

    Axes of a cube: channel, frame, row, column, the order of a 3-D convolution's weight.
    """
    grid.check_clip(tuple(frames.shape))
    if tokens is not None:
        runs = _runs(grid, tokens)
        return frames.reshape(-1, grid.patch).index_select(0, runs.flatten()).view(*runs.shape, grid.patch)
    batch, (steps, rows, columns) = frames.shape[0], grid.shape
    cut = frames.reshape(batch, steps, grid.tubelet, grid.channels, rows, grid.patch, columns, grid.patch)
    return cut.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(1, 3)


def _runs(grid: TokenGrid, tokens: Tensor) -> Tensor:
    """[B, S, C, t, p]: where each row of each cube lies, counted in runs of `patch` pixels through the whole
    batch.
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
    """Pixels in [0, 1] of the cubes of `tokens`, flattened as released: frame, row, column, channel
    fastest.
    """
    return unit_range(flatten_cubes(gather_cubes(frames, grid, tokens)))


def flatten_cubes(values: Shaped[Tensor, "B S C t p q"]) -> Shaped[Tensor, "B S P"]:
    """Cubes as vectors in the released order: frame, row, column, channel fastest."""
    return values.permute(0, 1, 3, 4, 5, 2).flatten(2)


def unit_range(values: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
    """uint8 as float32 in [0, 1]; floats as they are, in float32 at least."""
    if values.dtype == torch.uint8:
        return values / 255
    return values if values.dtype == torch.float64 else values.float()


def paste(
    values: Float[Tensor, "B S P"],
    tokens: Int[Tensor, "B S"],
    grid: TokenGrid,
    canvas: Float[Tensor, "B T C H W"] | None = None,
) -> Float[Tensor, "B T C H W"]:
    """The inverse of `cubes`: a clip with these cubes at these tokens, on a copy of `canvas` (None:
    black).
    """
    batch, size = values.shape[0], values.shape[2]
    if size != grid.cube_values:
        raise UserError(
            f"cubes of {size} values came, but the grid {grid} has cubes of {grid.cube_values}; use its own "
            "grid"
        )
    if canvas is None:
        canvas = values.new_zeros(grid.clip_shape(batch))
    whole = flatten_cubes(gather_cubes(canvas, grid)).to(values.dtype)
    whole = whole.scatter(1, tokens[..., None].expand(-1, -1, size), values)
    steps, rows, columns = grid.shape
    cut = whole.reshape(batch, steps, rows, columns, grid.tubelet, grid.patch, grid.patch, grid.channels)
    return cut.permute(0, 1, 4, 7, 2, 5, 3, 6).reshape(grid.clip_shape(batch))
