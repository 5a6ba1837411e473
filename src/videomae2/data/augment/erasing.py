"""Random erasing: one box of a clip becomes noise (Zhong et al. 2020; pixel mode, one box, as released)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from videomae2.errors import UserError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's. The noise is standard normal after normalisation, as released; clips are uint8, so it is mapped
back.
"""


@dataclass(frozen=True)
class RandomErasing:
    """With `probability`, fill one box, the same in all frames, with fresh noise in every pixel of every
    frame.

    `area` is the range of the box's share of the picture, `ratio` the range of its height over its width
    (log-uniform).
    """

    probability: float
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"erasing is {self.probability}, but it is a probability from 0 to 1; try 0.25")

    def __call__(
        self, frames: UInt8[Tensor, "T C H W"], rng: np.random.Generator
    ) -> UInt8[Tensor, "T C H W"]:
        """The clip with its box erased, or the clip itself."""
        if rng.random() >= self.probability:
            return frames
        num_frames, channels, height, width = frames.shape
        box = self._box(height, width, rng)
        if box is None:
            return frames
        top, left, tall, wide = box
        noise = torch.from_numpy(rng.standard_normal((num_frames, channels, tall, wide), dtype=np.float32))
        scale, shift = (torch.tensor(values)[:, None, None] * 255 for values in (STD, MEAN))
        erased = frames.clone()
        erased[:, :, top : top + tall, left : left + wide] = (
            (noise * scale + shift).round_().clamp_(0, 255).to(torch.uint8)
        )
        return erased

    def _box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
        """(top, left, height, width) smaller than the picture on both sides; None after ten tries, as
        released.
        """
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            shape = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            tall, wide = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < tall < height and 0 < wide < width:
                return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
        return None
