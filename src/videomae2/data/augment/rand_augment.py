"""RandAugment (Cubuk et al. 2020) for clips: the same operations and strengths for every frame, on uint8."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from videomae2.data.augment import pixel_ops
from videomae2.errors import UserError
from videomae2.placement import Box

MAX_LEVEL = 10.0


@dataclass(frozen=True)
class Operation:
    """One operation: what it does, and how a level in 0 .. 1 becomes its strength, plain or "increasing"."""

    apply: Callable[..., Tensor]
    """(frames, strength), and for one that looks beyond a pixel also the box of frames that is wanted."""
    plain: Callable[[float], float] = float
    increasing: Callable[[float], float] | None = None
    signed: bool = False
    """Whether a coin turns the strength to the other side of `neutral`."""
    neutral: float = 0.0
    by_pixel: bool = False
    """Whether a pixel's new value follows from its old one alone."""

    def strength(self, level: float, increasing: bool, rng: np.random.Generator) -> float:
        """The strength at a level; draws the coin where there is one."""
        # timm's plain strengths of colour operations run from 0.1 to 1.9 and know no coin; its increasing
        # ones say how far to go from 1.0, to either side.
        away = self.increasing is not None and increasing
        value = self.increasing(level) if self.increasing is not None and increasing else self.plain(level)
        if (self.signed and (away or self.increasing is None)) and rng.random() > 0.5:
            value = -value
        return self.neutral + value if away else value


def _enhance(apply: Callable[..., Tensor], by_pixel: bool = False) -> Operation:
    return Operation(
        apply, lambda v: 0.1 + 1.8 * v, lambda v: 0.9 * v, signed=True, neutral=1.0, by_pixel=by_pixel
    )


def _move(apply: Callable[..., Tensor], most: float) -> Operation:
    return Operation(apply, lambda v: most * v, signed=True)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": Operation(pixel_ops.auto_contrast),
    "Equalize": Operation(pixel_ops.equalize),
    "Invert": Operation(pixel_ops.invert, by_pixel=True),
    "Rotate": _move(pixel_ops.rotate, 30.0),
    "Posterize": Operation(
        pixel_ops.posterize, lambda v: 4.0 * v // 1, lambda v: 4 - 4.0 * v // 1, by_pixel=True
    ),
    "Solarize": Operation(
        pixel_ops.solarize, lambda v: 256.0 * v // 1, lambda v: 256 - 256.0 * v // 1, by_pixel=True
    ),
    "SolarizeAdd": Operation(pixel_ops.solarize_add, lambda v: 110.0 * v // 1, by_pixel=True),
    "Color": _enhance(pixel_ops.color, by_pixel=True),
    "Contrast": _enhance(pixel_ops.contrast),
    "Brightness": _enhance(pixel_ops.brightness, by_pixel=True),
    "Sharpness": _enhance(pixel_ops.sharpness),
    "ShearX": _move(pixel_ops.shear_x, 0.3),
    "ShearY": _move(pixel_ops.shear_y, 0.3),
    "TranslateX": _move(pixel_ops.translate_x, 0.45),
    "TranslateY": _move(pixel_ops.translate_y, 0.45),
}
"""The fifteen operations and their ranges (timm's, which the released code carries)."""


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` operations drawn with replacement, each applied with `probability` at a random level.

    Levels have mean `magnitude` and standard deviation `std`, on a scale from 0 to 10.
    """

    magnitude: float = 7.0
    num_ops: int = 4
    std: float = 0.5
    increasing: bool = True
    probability: float = 0.5

    @classmethod
    def parse(cls, text: str) -> "RandAugment":
        """Read timm's notation, such as rand-m7-n4-mstd0.5-inc1; UserError where it is not understood."""
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
                "expected rand_augment like rand-mM-nN-mstdS-incI with M from 0 to 10, N whole operations, S "
                f"the standard deviation of M, I 0 or 1, got {text!r}; try rand-m7-n4-mstd0.5-inc1, or an "
                "empty text for none"
            )
        return cls(values["m"], int(values["n"]), values["mstd"], bool(values["inc"]))

    def __call__(
        self, frames: UInt8[Tensor, "T C H W"], rng: np.random.Generator
    ) -> UInt8[Tensor, "T C H W"]:
        """The clip after operations drawn now, contiguous."""
        return apply(self.draw(rng), frames).contiguous()

    def draw(self, rng: np.random.Generator) -> list[tuple[Operation, float]]:
        """Operations and their strengths, in order."""
        names, drawn = list(OPERATIONS), []
        for index in rng.integers(len(names), size=self.num_ops):
            # As in timm, the level is drawn only where the operation is applied.
            if rng.random() >= self.probability:
                continue
            level = min(max(rng.normal(self.magnitude, self.std), 0.0), MAX_LEVEL) / MAX_LEVEL
            operation = OPERATIONS[names[int(index)]]
            drawn.append((operation, operation.strength(level, self.increasing, rng)))
        return drawn


def apply(
    drawn: list[tuple[Operation, float]], frames: UInt8[Tensor, "T C H W"], box: Box | None = None
) -> UInt8[Tensor, "T C h w"]:
    """The box (by default all) of frames after the drawn operations.

    Up to the last operation that looks beyond a pixel, whole frames are needed; that one and all after it
    work on the box.
    """
    box = box or Box.around(frames)
    frames = frames.contiguous()  # most operations are faster plane by plane
    whole = max(
        (number + 1 for number, (operation, _) in enumerate(drawn) if not operation.by_pixel), default=0
    )
    for operation, strength in drawn[: max(whole - 1, 0)]:
        frames = operation.apply(frames, strength)
    if whole:
        operation, strength = drawn[whole - 1]
        frames = operation.apply(frames, strength, box)
    else:
        frames = box.cut(frames)
    for operation, strength in drawn[whole:]:
        frames = operation.apply(frames, strength)
    return frames
