"""RandAugment (Cubuk et al. 2020) for clips: the same operations and strengths for every frame, as tensor code on uint8.

Operations follow Pillow's definitions, which the released recipes were trained with; statistics (contrast, equalize)
are taken frame by frame, as released. What an operation moves in from outside is grey (128).
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from videomae2.errors import UserError

FILL = 128
MAX_LEVEL = 10.0


def auto_contrast(frames: Tensor, _: float = 0.0) -> Tensor:
    """Stretch each frame's channels to 0 .. 255."""
    low, high = frames.amin((-2, -1)).double()[..., None], frames.amax((-2, -1)).double()[..., None]
    levels = torch.arange(256, dtype=torch.float64)
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1)  # a number over a tensor would round twice
    table = torch.where(high > low, levels * scale - low * scale, levels).clamp(0, 255)
    return _look_up(frames, table.to(torch.uint8))


def equalize(frames: Tensor, _: float = 0.0) -> Tensor:
    """Make each frame's channels use all levels about equally often."""
    counts = torch.stack([torch.bincount(plane.reshape(-1), minlength=256) for plane in frames.flatten(0, 1)])
    occupied = counts > 0
    last = 255 - occupied.flip(-1).int().argmax(-1, keepdim=True)
    step = (counts.sum(-1, keepdim=True) - counts.gather(-1, last)) // 255
    before = counts.cumsum(-1) - counts
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(0, 255)
    untouched = (occupied.sum(-1, keepdim=True) <= 1) | (step == 0)
    table = torch.where(untouched, torch.arange(256), table).to(torch.uint8)
    return _look_up(frames, table.reshape(*frames.shape[:2], 256))


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
    return _blend(_grey(frames), frames, factor)


def contrast(frames: Tensor, factor: float) -> Tensor:
    """0 is each frame's mean grey, 1 the frame itself."""
    grey = _grey(frames)
    mean = grey.sum((-3, -2, -1), keepdim=True, dtype=torch.int64).double() / grey[0].numel()
    return _blend((mean + 0.5).floor(), frames, factor)


def brightness(frames: Tensor, factor: float) -> Tensor:
    """0 is black, 1 the frame itself."""
    return _blend(torch.zeros(1), frames, factor)


def sharpness(frames: Tensor, factor: float) -> Tensor:
    """0 is smoothed by a 3 x 3 kernel, 1 the frame itself, above 1 sharper; the outermost pixels stay."""
    if min(frames.shape[-2:]) < 3:
        return frames
    wide = frames.to(torch.int16)
    rows = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide[..., 1:-1, 1:-1]
    smooth = frames.clone()
    # sum / 13, rounded, in whole numbers: the same on every machine and for any number of threads
    smooth[..., 1:-1, 1:-1] = torch.div(2 * total + 13, 26, rounding_mode="floor").to(torch.uint8)
    return _blend(smooth, frames, factor)


def rotate(frames: Tensor, degrees: float) -> Tensor:
    """Turn about the middle, anticlockwise."""
    height, width = frames.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return _affine(frames, (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y))


def shear_x(frames: Tensor, factor: float) -> Tensor:
    """Slide each row by `factor` x its height."""
    return _affine(frames, (1.0, factor, 0.0), (0.0, 1.0, 0.0))


def shear_y(frames: Tensor, factor: float) -> Tensor:
    """Slide each column by `factor` x its distance from the left."""
    return _affine(frames, (1.0, 0.0, 0.0), (factor, 1.0, 0.0))


def translate_x(frames: Tensor, share: float) -> Tensor:
    """Slide sideways by a share of the width, in whole pixels."""
    return _slide(frames, -1, round(share * frames.shape[-1]))


def translate_y(frames: Tensor, share: float) -> Tensor:
    """Slide up or down by a share of the height, in whole pixels."""
    return _slide(frames, -2, round(share * frames.shape[-2]))


@dataclass(frozen=True)
class Operation:
    """One operation: what it does, and how a level in 0 .. 1 becomes its strength, plainly and 'increasing' (inc1)."""

    apply: Callable[[Tensor, float], Tensor]
    plain: Callable[[float], float] = float
    increasing: Callable[[float], float] | None = None
    signed: bool = False
    """Whether a coin turns the strength to the other side of `neutral`."""
    neutral: float = 0.0

    def strength(self, level: float, increasing: bool, rng: np.random.Generator) -> float:
        """The strength at a level; draws the coin where there is one."""
        away = self.increasing is not None and increasing
        value = self.increasing(level) if self.increasing is not None and increasing else self.plain(level)
        if (self.signed and (away or self.increasing is None)) and rng.random() > 0.5:
            value = -value
        return self.neutral + value if away else value


def _enhance(apply: Callable[[Tensor, float], Tensor]) -> Operation:
    return Operation(apply, lambda v: 0.1 + 1.8 * v, lambda v: 0.9 * v, signed=True, neutral=1.0)


def _move(apply: Callable[[Tensor, float], Tensor], most: float) -> Operation:
    return Operation(apply, lambda v: most * v, signed=True)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(auto_contrast),
    "Equalize": Operation(equalize),
    "Invert": Operation(invert),
    "Rotate": _move(rotate, 30.0),
    "Posterize": Operation(posterize, lambda v: 4.0 * v // 1, lambda v: 4 - 4.0 * v // 1),
    "Solarize": Operation(solarize, lambda v: 256.0 * v // 1, lambda v: 256 - 256.0 * v // 1),
    "SolarizeAdd": Operation(solarize_add, lambda v: 110.0 * v // 1),
    "Color": _enhance(color),
    "Contrast": _enhance(contrast),
    "Brightness": _enhance(brightness),
    "Sharpness": _enhance(sharpness),
    "ShearX": _move(shear_x, 0.3),
    "ShearY": _move(shear_y, 0.3),
    "TranslateX": _move(translate_x, 0.45),
    "TranslateY": _move(translate_y, 0.45),
}
"""The fifteen operations and their ranges (timm's, which the released code carries)."""


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` operations drawn with replacement, each applied with `probability` at a level around `magnitude` of 10."""

    magnitude: float = 7.0
    num_ops: int = 4
    std: float = 0.5
    increasing: bool = True
    probability: float = 0.5

    @classmethod
    def parse(cls, text: str) -> "RandAugment":
        """Read timm's notation, such as rand-m7-n4-mstd0.5-inc1; UserError names the part that is not understood."""
        head, *parts = text.split("-")
        values = {"m": 10.0, "n": 2.0, "mstd": 0.0, "inc": 0.0}
        for part in parts:
            match = re.fullmatch(r"(mstd|m|n|inc)(\d+(?:\.\d+)?)", part)
            if match is None:
                head = ""
                break
            values[match[1]] = float(match[2])
        if head != "rand" or values["m"] > MAX_LEVEL or values["n"] < 1 or values["n"] % 1:
            raise UserError(
                f"rand_augment is {text!r}, but a policy reads rand-mM-nN-mstdS-incI with M from 0 to 10, N whole operations, "
                f"S the spread of M, I 0 or 1; try rand-m7-n4-mstd0.5-inc1, or an empty text for none"
            )
        return cls(values["m"], int(values["n"]), values["mstd"], bool(values["inc"]))

    def __call__(self, frames: UInt8[Tensor, "T C H W"], rng: np.random.Generator) -> UInt8[Tensor, "T C H W"]:
        """The clip after the drawn operations, contiguous."""
        names, frames = list(OPERATIONS), frames.contiguous()  # most operations are faster plane by plane
        for index in rng.integers(len(names), size=self.num_ops):
            if rng.random() >= self.probability:
                continue
            level = min(max(rng.normal(self.magnitude, self.std), 0.0), MAX_LEVEL) / MAX_LEVEL
            operation = OPERATIONS[names[int(index)]]
            frames = operation.apply(frames, operation.strength(level, self.increasing, rng))
        return frames.contiguous()


def _look_up(frames: Tensor, table: Tensor) -> Tensor:
    """Each channel of each frame through its own table [T, C, 256]."""
    return table.gather(-1, frames.flatten(-2).long()).view(frames.shape)


def _blend(other: Tensor, frames: Tensor, factor: float) -> Tensor:
    base = other.to(torch.float32)
    return (base + factor * (frames.to(torch.float32) - base)).clamp_(0, 255).to(torch.uint8)


def _grey(frames: Tensor) -> Tensor:
    """Luma of BT.601 in 16-bit fixed point, [T, 1, H, W]."""
    red, green, blue = frames.to(torch.int32).unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16)[:, None]


def _slide(frames: Tensor, axis: int, pixels: int) -> Tensor:
    """Take each pixel from `pixels` further along an axis, grey where that is outside."""
    moved = torch.full_like(frames, FILL)
    kept = frames.shape[axis] - abs(pixels)
    moved.narrow(axis, max(-pixels, 0), kept).copy_(frames.narrow(axis, max(pixels, 0), kept))
    return moved


def _affine(frames: Tensor, to_x: tuple[float, float, float], to_y: tuple[float, float, float]) -> Tensor:
    """Take the pixel at (x, y) from (a x + b y + c, d x + e y + f), bicubic as released, grey where that is outside."""
    steps, channels, height, width = frames.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    from_x = (to_x[0] * x + to_x[1] * y + to_x[2]) * (2 / width) - 1
    from_y = (to_y[0] * x + to_y[1] * y + to_y[2]) * (2 / height) - 1
    planes = frames.reshape(1, steps * channels, height, width).to(torch.float32) - FILL
    moved = F.grid_sample(planes, torch.stack((from_x, from_y), -1)[None], "bicubic", "zeros", align_corners=False)
    return (moved + FILL).round_().clamp_(0, 255).to(torch.uint8).view(frames.shape)
