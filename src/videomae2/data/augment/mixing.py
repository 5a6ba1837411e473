"""Mixup and cutmix over a batch, with label smoothing: uint8 clips in, float clips in [0, 1] and soft targets
out.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from videomae2 import chance
from videomae2.errors import UserError


def soft_targets(labels: Int[Tensor, "B"], num_classes: int, smoothing: float = 0.0) -> Float[Tensor, "B K"]:
    """One row of probabilities for each label: 1 - s + s / K at the label, s / K elsewhere.

    UserError for labels outside 0 .. K - 1, where they can be read without waiting for a device.
    """
    if not 0 <= smoothing < 1:
        raise UserError(f"label_smoothing is {smoothing}, but it needs 0 <= label_smoothing < 1; try 0.1")
    if (
        labels.device.type == "cpu"
        and len(labels)
        and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes
    ):
        raise UserError(
            f"labels from {int(labels.min())} to {int(labels.max())} came for {num_classes} classes; they "
            "count from 0 to "
            f"{num_classes - 1}, and -1 (no label) cannot be trained on; mend the manifest or set num_classes"
        )
    hits = labels[:, None] == torch.arange(num_classes, device=labels.device)
    return hits.to(torch.float32) * (1 - smoothing) + smoothing / num_classes


def mixup_cutmix(
    frames: Tensor,
    labels: Int[Tensor, "B"],
    num_classes: int,
    key: int,
    *,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    probability: float = 1.0,
    switch: float = 0.5,
    smoothing: float = 0.1,
) -> tuple[Float[Tensor, "B T C H W"], Float[Tensor, "B K"]]:
    """Mix every clip with its partner from the other end of the batch; one lambda for the whole batch, as
    released.

    frames: uint8 or float in [0, 1], [B, T, C, H, W]. `mixup` and `cutmix` are Beta parameters, 0 is off;
    `switch` is the probability of cutmix where both are on. cutmix pastes one box into all frames and
    corrects lambda to the box's true area. Every random number follows from `key`.
    """
    plain = frames.to(torch.float32) / 255 if frames.dtype == torch.uint8 else frames
    targets = soft_targets(labels, num_classes, smoothing)
    rng = chance.numpy_generator(key)
    if (mixup <= 0 and cutmix <= 0) or rng.random() >= probability:
        return plain, targets
    use_cutmix = cutmix > 0 and (mixup <= 0 or rng.random() < switch)
    share = float(rng.beta(cutmix, cutmix) if use_cutmix else rng.beta(mixup, mixup))
    if use_cutmix:
        top, bottom, left, right = _cut_box(plain.shape[-2], plain.shape[-1], share, rng)
        mixed = plain.clone()
        mixed[..., top:bottom, left:right] = plain.flip(0)[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (plain.shape[-2] * plain.shape[-1])
    else:
        mixed = torch.lerp(plain.flip(0), plain, share)
    return mixed, targets * share + targets.flip(0) * (1 - share)


def _cut_box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a box of about 1 - share of the area around a uniform centre, cut at the
    edges.
    """
    side = math.sqrt(1 - share)
    tall, wide = int(height * side), int(width * side)
    row, column = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(0, row - tall // 2), min(height, row + tall // 2)
    left, right = max(0, column - wide // 2), min(width, column + wide // 2)
    return top, bottom, left, right
