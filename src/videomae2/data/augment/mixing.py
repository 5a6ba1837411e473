"""Regularisers that replace pixels: random erasing within a clip, mixup and cutmix across a batch."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from videomae2 import chance
from videomae2.errors import UserError
from videomae2.placement import Box

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's. The noise is standard normal after normalisation (released), and scaled to uint8 here."""


@dataclass(frozen=True)
class RandomErasing:
    """With `probability`, fill one box, the same in all frames, with fresh noise in each of its pixels.

    Random erasing (Zhong et al. 2020; pixel mode, one box, as released). `area` is the range of the box's
    share of the picture, `ratio` the range of its height over its width (log-uniform).
    """

    probability: float
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(
                f"expected erasing as a probability from 0 to 1, got {self.probability}; try 0.25"
            )

    def __call__(
        self, frames: UInt8[Tensor, "T C H W"], rng: np.random.Generator
    ) -> UInt8[Tensor, "T C H W"]:
        """The clip with its box erased, or the clip itself."""
        if rng.random() >= self.probability:
            return frames
        box = self._box(frames.shape[-2], frames.shape[-1], rng)
        if box is None:
            return frames
        shape = (*frames.shape[:2], box.height, box.width)
        noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        scale, shift = (torch.tensor(values)[:, None, None] * 255 for values in (STD, MEAN))
        erased = frames.clone()  # the caller keeps its frames
        box.cut(erased).copy_((noise * scale + shift).round_().clamp_(0, 255))
        return erased

    def _box(self, height: int, width: int, rng: np.random.Generator) -> Box | None:
        """A box smaller than the picture both ways; None after ten tries, as released."""
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            shape = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            tall, wide = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < tall < height and 0 < wide < width:
                top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
                return Box(top, left, tall, wide)
        return None


def soft_targets(labels: Int[Tensor, "B"], num_classes: int, smoothing: float = 0.0) -> Float[Tensor, "B K"]:
    """One row of probabilities for each label: 1 - s + s / K at the label, s / K elsewhere.

    UserError for labels outside 0 .. K - 1, where they can be read without waiting for a device.
    """
    if not 0 <= smoothing < 1:
        raise UserError(f"expected 0 <= label_smoothing < 1, got {smoothing}; try 0.1")
    if (
        labels.device.type == "cpu"
        and len(labels)
        and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes
    ):
        raise UserError(
            f"expected labels from 0 to {num_classes - 1} for {num_classes} classes, got {int(labels.min())} "
            f"to {int(labels.max())}; -1 (no label) cannot be trained on; mend the manifest or set "
            "num_classes"
        )
    hits = labels[:, None] == torch.arange(num_classes, device=labels.device)
    return hits.to(torch.float32) * (1 - smoothing) + smoothing / num_classes


def pairs(first: int, count: int) -> list[tuple[int, int]]:
    """The pairs (2k, 2k + 1) among `count` videos from `first` on: each k, and how many of it are there."""
    numbers = [video // 2 for video in range(first, first + count)]
    return [(pair, len(list(members))) for pair, members in itertools.groupby(numbers)]


def mixup_cutmix(
    frames: Tensor,
    labels: Int[Tensor, "B"],
    num_classes: int,
    key: int,
    *,
    views: int = 1,
    first: int = 0,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    probability: float = 1.0,
    switch: float = 0.5,
    smoothing: float = 0.1,
) -> tuple[Float[Tensor, "B T C H W"], Float[Tensor, "B K"]]:
    """Mix the clips of each pair of videos with one lambda, each clip with its partner from the other end.

    frames: uint8 or float in [0, 1], [B, T, C, H, W]: `views` clips of each video side by side, of the videos
    `first` and following of an epoch. Videos 2k and 2k + 1 of the epoch are a pair, whose numbers follow from
    `key` and k; one without its partner mixes its own views. `mixup` and `cutmix` are Beta parameters, 0 is
    off; `switch` is the probability of cutmix where both are on, `probability` that a pair is mixed. cutmix
    pastes one box into all frames and corrects lambda to the box's true area.
    """
    # As released on a batch of two videos. The released code mixes the batch of one process, of 6 clips for
    # ViT-g, so that what a clip is mixed with depends on the number of processes; a pair depends on nothing.
    plain = frames.to(torch.float32) / 255 if frames.dtype == torch.uint8 else frames
    targets = soft_targets(labels, num_classes, smoothing)
    if mixup <= 0 and cutmix <= 0:
        return plain, targets
    height, width = plain.shape[-2:]
    # Of each clip, its partner and its own share: one pass over the batch mixes, whatever was drawn.
    partner, shares, areas = list(range(len(plain))), [1.0] * len(plain), [1.0] * len(plain)
    boxes: list[tuple[slice, tuple[int, int, int, int]]] = []
    start = 0
    for pair, members in pairs(first, len(plain) // views):
        clips = slice(start, start + members * views)
        start = clips.stop
        rng = chance.numpy_generator(chance.key(key, pair))
        if rng.random() >= probability:
            continue
        use_cutmix = cutmix > 0 and (mixup <= 0 or rng.random() < switch)
        share = float(rng.beta(cutmix, cutmix) if use_cutmix else rng.beta(mixup, mixup))
        partner[clips] = reversed(partner[clips])
        if use_cutmix:
            box = _cut_box(height, width, share, rng)
            boxes.append((clips, box))
            share = 1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width)
        else:
            shares[clips] = [share] * members * views
        areas[clips] = [share] * members * views
    others = torch.tensor(partner, device=plain.device)
    mixed = torch.lerp(plain[others], plain, _of_each_clip(shares, plain))
    for clips, (top, bottom, left, right) in boxes:
        box_of_others = plain[others[clips]][..., top:bottom, left:right]
        mixed[clips][..., top:bottom, left:right] = box_of_others
    return mixed, torch.lerp(targets[others], targets, _of_each_clip(areas, targets))


def _of_each_clip(numbers: list[float], like: Tensor) -> Tensor:
    """One number a clip, to be broadcast over the rest of it."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.ndim - 1))


def _cut_box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a box around a uniform centre, cut off at the edges.

    Before it is cut off, its area is about 1 - share of the picture's.
    """
    side = math.sqrt(1 - share)
    tall, wide = int(height * side), int(width * side)
    row, column = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(0, row - tall // 2), min(height, row + tall // 2)
    left, right = max(0, column - wide // 2), min(width, column + wide // 2)
    return top, bottom, left, right
