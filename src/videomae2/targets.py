"""What a prediction is compared with, and how: normalised pixels of the scored cubes (paper 3.2), and losses.

`TARGETS` has a row for each choice of `target.normalize`. A new target is its row here and its word in
`settings.py`. Losses are scalars in float32, whatever the precision of the network.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from videomae2.cubes import Frames, cubes, flatten_cubes, gather_cubes, paste, unit_range
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid

__all__ = ["TARGETS", "cubes", "denormalize", "paste", "reconstruction_targets"]

_EPSILON = 1e-6  # released: added to the standard deviation, not to the variance

# Axes that a cube's statistics are taken over: of [B, S, C, t, p, q], and of [B, S, pixels, channels].
_GATHERED_AXES = {"channel": (3, 4, 5), "cube": (2, 3, 4, 5)}
_FLAT_AXES = {"channel": (2,), "cube": (2, 3)}


def channel_normalized(frames: Frames, grid: TokenGrid, tokens: Int[Tensor, "B S"]) -> Float[Tensor, "B S P"]:
    """Each cube and colour channel to mean 0 and unbiased variance 1 (released)."""
    return _normalized(frames, grid, tokens, "channel")


def cube_normalized(frames: Frames, grid: TokenGrid, tokens: Int[Tensor, "B S"]) -> Float[Tensor, "B S P"]:
    """Each cube, all channels together, to mean 0 and unbiased variance 1 (the paper's text)."""
    return _normalized(frames, grid, tokens, "cube")


def raw_pixels(frames: Frames, grid: TokenGrid, tokens: Int[Tensor, "B S"]) -> Float[Tensor, "B S P"]:
    """Pixels in [0, 1] as they are."""
    return cubes(frames, grid, tokens)


TargetFunction = Callable[[Frames, TokenGrid, Tensor], Tensor]
"""From clips, their grid and tokens [B, S] to what each is compared with, [B, S, P]."""

TARGETS: dict[str, TargetFunction] = {
    "channel": channel_normalized,
    "cube": cube_normalized,
    "none": raw_pixels,
}
"""Every choice of `target.normalize`, and the function that computes it."""


@torch.no_grad()
def reconstruction_targets(
    frames: Frames, grid: TokenGrid, tokens: Int[Tensor, "B S"], normalize: str = "channel"
) -> Float[Tensor, "B S P"]:
    """Targets of these tokens only, from pixels in [0, 1] without the network's mean and standard deviation.

    They carry no gradient. `normalize` names a row of `TARGETS`; UserError where there is none, or where a
    cube is too small to have a variance.
    """
    if normalize not in TARGETS:
        raise _unknown(normalize)
    return TARGETS[normalize](frames, grid, tokens)


def denormalize(
    prediction: Float[Tensor, "B S P"],
    pixels: Float[Tensor, "B S P"],
    grid: TokenGrid,
    normalize: str = "channel",
) -> Float[Tensor, "B S P"]:
    """Turn predictions into pixels, for looking at: a network predicts a cube's pattern, not its brightness.

    Mean and standard deviation are those of the true cubes `pixels`, in [0, 1] from `cubes`. UserError where
    no pixels can be made of such a target.
    """
    if normalize == "none":
        return prediction
    mean, std = _statistics(_by_channel(pixels, grid), _axes(normalize, grid, _FLAT_AXES))
    return (_by_channel(prediction, grid) * std + mean).flatten(2)


def _normalized(frames: Frames, grid: TokenGrid, tokens: Tensor, normalize: str) -> Tensor:
    pixels = unit_range(gather_cubes(frames, grid, tokens))
    mean, std = _statistics(pixels, _axes(normalize, grid, _GATHERED_AXES))
    return flatten_cubes(pixels.sub(mean).div_(std))


def _axes(normalize: str, grid: TokenGrid, axes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    if normalize not in axes:
        raise _unknown(normalize)
    if (grid.cube_pixels if normalize == "channel" else grid.cube_values) < 2:
        raise UserError(
            f"expected cubes of at least two values to normalise by their variance, got one value ({grid}); "
            "try target.normalize = none"
        )
    return axes[normalize]


def _statistics(pixels: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation, plus epsilon, over `axes`, which are kept."""
    # From the norm of the centred values: torch.var takes ten times as long over these axes on a CPU.
    mean = pixels.mean(axes, keepdim=True)
    count = pixels.numel() // mean.numel()
    norm = torch.linalg.vector_norm(pixels - mean, dim=axes, keepdim=True)
    return mean, norm / (count - 1) ** 0.5 + _EPSILON


def _by_channel(values: Tensor, grid: TokenGrid) -> Tensor:
    return values.reshape(*values.shape[:2], grid.cube_pixels, grid.channels)


def _unknown(normalize: str) -> UserError:
    return UserError(f"expected target.normalize to be one of {', '.join(TARGETS)}, got {normalize!r}")


def masked_mse(prediction: Float[Tensor, "B S P"], target: Float[Tensor, "B S P"]) -> Float[Tensor, ""]:
    """Mean squared error over a cube's P values, then over the scored tokens of the batch (released engine).

    The paper's Eq. 2 divides by every token that the decoder mask keeps, scored or not: its loss is this one
    times 704 / 784 at 16 x 224 x 224.
    """
    difference = prediction.float() - target.float()
    # Against zero, so that only the difference is saved for backward, instead of prediction and target.
    return F.mse_loss(difference, difference.new_zeros(()).expand_as(difference))


def soft_cross_entropy(logits: Float[Tensor, "B K"], target: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Mean cross-entropy against a distribution over classes, as mixup and label smoothing make them."""
    return F.cross_entropy(logits.float(), target.float())


def sigmoid_focal_loss(
    logits: Float[Tensor, "n K"], target: Float[Tensor, "n K"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, ""]:
    """Sum of the focal loss: binary cross-entropy times alpha_t * (1 - p_t) ** gamma (RetinaNet, ICCV 2017).

    It makes little of the many points that are right already: nearly all points of a video are background.
    """
    logits, target = logits.float(), target.float()
    score = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    right = score * target + (1 - score) * (1 - target)
    balance = alpha * target + (1 - alpha) * (1 - target)
    return (balance * (1 - right) ** gamma * entropy).sum()


def diou_loss_1d(predicted: Float[Tensor, "n 2"], target: Float[Tensor, "n 2"]) -> Float[Tensor, ""]:
    """Sum over points of 1 - IoU + (distance of the middles / length of the hull) ** 2 (AAAI 2020, in 1-D).

    Both are distances from a point to start and end, so that the segments of a pair share that point.
    """
    predicted, target = predicted.float(), target.float()
    shared = torch.minimum(predicted, target).sum(1)
    union = predicted.sum(1) + target.sum(1) - shared
    hull = torch.maximum(predicted, target).sum(1)
    apart = 0.5 * ((predicted[:, 1] - predicted[:, 0]) - (target[:, 1] - target[:, 0]))
    tiny = 1e-8  # released: added nowhere, only a least divisor
    overlap, distance = shared / union.clamp(min=tiny), apart / hull.clamp(min=tiny)
    return (1 - overlap + distance.square()).sum()
