"""The operations of RandAugment, as tensor code on uint8 clips: some change colours, some move pixels.

They follow Pillow's definitions, which the released recipes were trained with; statistics (auto contrast,
contrast, equalize) are taken frame by frame, over whole frames, as released; what a move brings in from
outside is grey (128). Operations that look beyond a pixel take a `box`, and give only its part of the frames:
what no later step looks at is not computed. Floating-point work goes frame by frame, so that it stays in the
processor's cache.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videomae2.placement import Box

FILL = 128


def auto_contrast(frames: Tensor, _: float = 0.0, box: Box | None = None) -> Tensor:
    """Stretch each frame's channels to 0 .. 255."""
    low, high = frames.amin((-2, -1)).double()[..., None], frames.amax((-2, -1)).double()[..., None]
    levels = torch.arange(256, dtype=torch.float64)
    # 255.0 over a tensor would be computed as 255.0 times its reciprocal, which rounds twice.
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1)
    table = torch.where(high > low, levels * scale - low * scale, levels).clamp(0, 255)
    return _look_up(frames if box is None else box.cut(frames), table.to(torch.uint8))


def equalize(frames: Tensor, _: float = 0.0, box: Box | None = None) -> Tensor:
    """Make each frame's channels use all levels about equally often."""
    counts = torch.stack([torch.bincount(plane.reshape(-1), minlength=256) for plane in frames.flatten(0, 1)])
    occupied = counts > 0
    # Pillow leaves the last occupied level out of the step, so that it lands at 255.
    last = 255 - occupied.flip(-1).int().argmax(-1, keepdim=True)
    step = (counts.sum(-1, keepdim=True) - counts.gather(-1, last)) // 255
    before = counts.cumsum(-1) - counts
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(0, 255)
    # A plane of one level, or of fewer pixels than levels, is left alone, as Pillow does.
    untouched = (occupied.sum(-1, keepdim=True) <= 1) | (step == 0)
    table = torch.where(untouched, torch.arange(256), table).to(torch.uint8)
    return _look_up(frames if box is None else box.cut(frames), table.reshape(*frames.shape[:2], 256))


def invert(frames: Tensor, _: float = 0.0) -> Tensor:
    """Swap dark and bright."""
    return 255 - frames


def posterize(frames: Tensor, bits: float) -> Tensor:
    """Keep the highest `bits` bits of every value."""
    return frames & (0xFF ^ ((1 << (8 - int(bits))) - 1))


def solarize(frames: Tensor, threshold: float) -> Tensor:
    """Invert what is at least `threshold`."""
    return frames ^ ((frames >= int(threshold)).to(torch.uint8) * 255) if threshold < 256 else frames


def solarize_add(frames: Tensor, amount: float) -> Tensor:
    """Brighten what is darker than 128, by at most 128."""
    return frames + (frames < 128).to(torch.uint8) * int(amount)


def color(frames: Tensor, factor: float) -> Tensor:
    """0 is grey, 1 the frame itself, above 1 more colourful."""
    return _by_frame(frames, lambda frame: _blend(_grey(frame), frame, factor))


def contrast(frames: Tensor, factor: float, box: Box | None = None) -> Tensor:
    """0 is each frame's mean grey, 1 the frame itself."""

    def change(frame: Tensor) -> Tensor:
        grey = _grey(frame)
        mean = grey.sum(dtype=torch.float64) / grey.numel()
        return _blend((mean + 0.5).floor().float(), frame if box is None else box.cut(frame), factor)

    return _by_frame(frames, change, box)


def brightness(frames: Tensor, factor: float) -> Tensor:
    """0 is black, 1 the frame itself."""
    table = _blend(torch.zeros(1), torch.arange(256, dtype=torch.float32), factor).to(torch.uint8)
    return _look_up(frames, table.expand(*frames.shape[:2], 256))


def sharpness(frames: Tensor, factor: float, box: Box | None = None) -> Tensor:
    """0 is smoothed by a 3 x 3 kernel, 1 the frame itself, above 1 sharper; the outermost pixels stay."""
    box = box or Box.around(frames)
    if min(frames.shape[-2:]) < 3:
        return box.cut(frames)
    seen = box.grown(1, frames)
    inner = box.within(seen)
    return _by_frame(
        seen.cut(frames), lambda frame: _blend(inner.cut(_smoothed(frame)), inner.cut(frame), factor), inner
    )


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


def _smoothed(frame: Tensor) -> Tensor:
    """Sum over 3 x 3, the middle five times, over 13, rounded.

    Whole numbers in floats, so the same on every machine.
    """
    rows = frame[..., :-2, :] + frame[..., 1:-1, :] + frame[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * frame[..., 1:-1, 1:-1]
    smooth = frame.clone()
    smooth[..., 1:-1, 1:-1] = total.mul_(1 / 13).add_(0.5).floor_()  # never a tie: 13 is odd
    return smooth


def _by_frame(frames: Tensor, change: Callable[[Tensor], Tensor], box: Box | None = None) -> Tensor:
    """`change` takes and gives a frame as float32 [C, H, W]; what it gives is cut off to whole numbers."""
    size = frames.shape[-2:] if box is None else (box.height, box.width)
    changed = frames.new_empty((*frames.shape[:2], *size))
    for target, frame in zip(changed, frames, strict=True):
        target.copy_(change(frame.to(torch.float32)))
    return changed


def _blend(other: Tensor, frame: Tensor, factor: float) -> Tensor:
    return (frame - other).mul_(factor).add_(other).clamp_(0, 255)


def _grey(frame: Tensor) -> Tensor:
    """Luma of BT.601 in 16-bit fixed point, [1, H, W].

    Every step is a whole number below 2^24, so that floats are exact.
    """
    red, green, blue = frame.unbind(0)
    return (red * 19595).add_(green * 38470).add_(blue * 7471).add_(0x8000).mul_(2**-16).floor_()[None]


def _look_up(frames: Tensor, table: Tensor) -> Tensor:
    """Each channel of each frame through its own table [T, C, 256]."""
    found = torch.empty(frames.shape, dtype=torch.uint8)
    planes = frames.flatten(0, 1)
    for target, plane, levels in zip(found.flatten(0, 1), planes, table.flatten(0, 1), strict=True):
        # bytearray.translate is a plain loop over bytes in C, faster than indexing by a tensor.
        looked_up = bytearray(plane.contiguous().numpy()).translate(levels.numpy().tobytes())
        target.copy_(torch.frombuffer(looked_up, dtype=torch.uint8).view(target.shape))
    return found


def _slide(frames: Tensor, axis: int, pixels: int, box: Box | None) -> Tensor:
    """Take each pixel from `pixels` further along an axis, grey where that is outside."""
    moved = torch.full_like(frames, FILL)
    kept = frames.shape[axis] - abs(pixels)
    moved.narrow(axis, max(-pixels, 0), kept).copy_(frames.narrow(axis, max(pixels, 0), kept))
    return moved if box is None else box.cut(moved)


def _affine(
    frames: Tensor, to_x: tuple[float, float, float], to_y: tuple[float, float, float], box: Box | None
) -> Tensor:
    """Take the pixel at (x, y) from (a x + b y + c, d x + e y + f), bicubic as released.

    What lies outside is grey: FILL is subtracted before sampling, which pads with zeros, and added after.
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


_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Luma, and the plane of colours in which hue is an angle and saturation a radius."""


def color_jitter(frames: Tensor, changes: Sequence[float] | np.ndarray) -> Tensor:
    """Turn hue by `changes[0]` turns, and add shares to saturation and brightness; one change for all frames.

    Detection's jitter (V1: HSV by 20 degrees, 0.1, 0.1), here as one matrix over the colours of a pixel: in
    HSV the hue of a grey pixel is noise, and turning it adds some.
    """
    turn, saturation, brightness = (
        2 * math.pi * float(changes[0]),
        1 + float(changes[1]),
        1 + float(changes[2]),
    )
    cos, sin = saturation * math.cos(turn), saturation * math.sin(turn)
    change = torch.tensor([[1.0, 0, 0], [0, cos, -sin], [0, sin, cos]]) * brightness
    matrix = torch.linalg.inv(_YIQ) @ change @ _YIQ
    changed = torch.einsum("dc,tchw->tdhw", matrix, frames.float())
    return changed.round_().clamp_(0, 255).to(torch.uint8).contiguous()
