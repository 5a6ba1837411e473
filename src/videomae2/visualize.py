"""Tensors in, uint8 pictures out: what the encoder saw, clips side by side, strips of frames."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int, Shaped, UInt8
from torch import Tensor

from videomae2.errors import UserError
from videomae2.geometry import TokenGrid

PAPER = 255
"""Grey value of the gaps between pictures."""


def token_pixels(grid: TokenGrid, tokens: Int[Tensor, "V"]) -> Bool[Tensor, "T 1 H W"]:
    """Which pixels of a clip belong to these tokens."""
    chosen = torch.zeros(grid.num_tokens, dtype=torch.bool, device=tokens.device)
    chosen[tokens] = True
    for axis, side in enumerate((grid.tubelet, grid.patch, grid.patch)):
        chosen = chosen.reshape(grid.shape) if axis == 0 else chosen
        chosen = chosen.repeat_interleave(side, dim=axis)
    return chosen[:, None]


def to_uint8(frames: Shaped[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Frames in [0, 1] as bytes; values outside are clipped. Bytes pass through."""
    if frames.dtype == torch.uint8:
        return frames
    return (frames.float().nan_to_num(0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def hide(
    frames: UInt8[Tensor, "T C H W"], grid: TokenGrid, visible: Int[Tensor, "V"], shade: int = 128
) -> UInt8[Tensor, "T C H W"]:
    """The clip as the encoder saw it: every pixel outside the visible tokens is an even grey."""
    grid.check_clip((1, *frames.shape))
    return torch.where(token_pixels(grid, visible), frames, torch.full_like(frames, shade))


def side_by_side(clips: Sequence[UInt8[Tensor, "T C H W"]], gap: int = 4) -> UInt8[Tensor, "T C H W2"]:
    """Clips of one shape next to each other, `gap` light pixels between them."""
    return _join(clips, gap, axis=3)


def stack(pictures: Sequence[UInt8[Tensor, "C H W"]], gap: int = 4) -> UInt8[Tensor, "C H2 W"]:
    """Pictures of one shape above each other, `gap` light pixels between them."""
    return _join(pictures, gap, axis=1)


def strip(frames: UInt8[Tensor, "T C H W"], count: int = 8, gap: int = 4) -> UInt8[Tensor, "C H W2"]:
    """`count` frames, evenly spread over the clip, in a row; all frames where there are fewer."""
    if count < 1:
        raise UserError(f"a strip of {count} frames came, but at least 1 is needed")
    chosen = torch.linspace(0, len(frames) - 1, min(count, len(frames))).round().long()
    return _join(list(frames[chosen.to(frames.device)]), gap, axis=2)


def enlarge(pictures: UInt8[Tensor, "*n C H W"], at_least: int) -> UInt8[Tensor, "*n C H2 W2"]:
    """Whole-number enlargement, pixel by pixel, until pictures are at least `at_least` high; tiny clips stay
    sharp.
    """
    factor = max(1, -(-at_least // pictures.shape[-2]))
    return pictures.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def _join(parts: Sequence[Tensor], gap: int, axis: int) -> Tensor:
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) != 1:
        raise UserError(f"pictures of one shape can be joined; shapes {sorted(shapes)} came")
    spacer_shape = list(parts[0].shape)
    spacer_shape[axis] = gap
    spacer = torch.full(spacer_shape, PAPER, dtype=torch.uint8, device=parts[0].device)
    joined = [piece for part in parts for piece in (spacer, part)][1:]
    return torch.cat(joined, dim=axis)
