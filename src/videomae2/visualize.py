"""Tensors in, uint8 pictures out: what the encoder saw, clips side by side, strips of frames."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int, Shaped, UInt8
from torch import Tensor

from videomae2.errors import UserError
from videomae2.geometry import TokenGrid

GAP = 255
"""Grey value of the gaps between pictures: white, the colour of the pages that show them."""


def token_pixels(grid: TokenGrid, tokens: Int[Tensor, "V"]) -> Bool[Tensor, "T 1 H W"]:
    """True at the pixels of these tokens; the axis of 1 broadcasts over the channels."""
    chosen = torch.zeros(grid.num_tokens, dtype=torch.bool, device=tokens.device)
    chosen[tokens] = True
    for axis, side in enumerate((grid.tubelet, grid.patch, grid.patch)):
        chosen = chosen.reshape(grid.shape) if axis == 0 else chosen
        chosen = chosen.repeat_interleave(side, dim=axis)
    return chosen[:, None]


def to_uint8(frames: Shaped[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Convert floats in [0, 1] to uint8: clipped, rounded, NaN as grey. uint8 passes through."""
    if frames.dtype == torch.uint8:
        return frames
    # A NaN converted to an integer is undefined behaviour, and another value on each device.
    return (frames.float().nan_to_num(0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def hide(
    frames: UInt8[Tensor, "T C H W"], grid: TokenGrid, visible: Int[Tensor, "V"], shade: int = 128
) -> UInt8[Tensor, "T C H W"]:
    """The clip as the encoder saw it: every pixel outside the visible tokens has the grey value `shade`."""
    grid.check_clip((1, *frames.shape))
    return torch.where(token_pixels(grid, visible), frames, torch.full_like(frames, shade))


def side_by_side(clips: Sequence[UInt8[Tensor, "T C H W"]], gap: int = 4) -> UInt8[Tensor, "T C H W2"]:
    """Clips of one shape next to each other, `gap` white pixels between them."""
    return _join(clips, gap, axis=3)


def stack(pictures: Sequence[UInt8[Tensor, "C H W"]], gap: int = 4) -> UInt8[Tensor, "C H2 W"]:
    """Pictures of one shape above each other, `gap` white pixels between them."""
    return _join(pictures, gap, axis=1)


def strip(frames: UInt8[Tensor, "T C H W"], count: int = 8, gap: int = 4) -> UInt8[Tensor, "C H W2"]:
    """`count` frames in a row, evenly spread from the first to the last; all where the clip has fewer."""
    if count < 1:
        raise UserError(f"expected a strip of at least 1 frame, got {count}")
    # Both ends included: where a movement starts and where it ends says most about it.
    chosen = torch.linspace(0, len(frames) - 1, min(count, len(frames))).round().long()
    return _join(list(frames[chosen.to(frames.device)]), gap, axis=2)


def enlarge(pictures: UInt8[Tensor, "*n C H W"], at_least: int) -> UInt8[Tensor, "*n C H2 W2"]:
    """Repeat pixels a whole number of times, until pictures are at least `at_least` pixels high.

    Interpolation would blur the cubes of tiny clips, which are what one wants to see.
    """
    factor = max(1, -(-at_least // pictures.shape[-2]))
    return pictures.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def _join(parts: Sequence[Tensor], gap: int, axis: int) -> Tensor:
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) != 1:
        raise UserError(f"expected pictures of one shape to join, got shapes {sorted(shapes)}")
    spacer_shape = list(parts[0].shape)
    spacer_shape[axis] = gap
    spacer = torch.full(spacer_shape, GAP, dtype=torch.uint8, device=parts[0].device)
    joined = [piece for part in parts for piece in (spacer, part)][1:]  # no gap before the first
    return torch.cat(joined, dim=axis)
