"""What a prediction is compared with: the pixels of the scored cubes, normalised (paper 3.2; released
engine).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videomae2.cubes import Frames, cubes, flatten_cubes, gather_cubes, paste, unit_range
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid

__all__ = ["cubes", "denormalize", "paste", "reconstruction_targets"]

_EPSILON = 1e-6  # released: added to the standard deviation, not to the variance
_AXES = {"channel": (2,), "cube": (2, 3)}  # of [B, S, pixels, channels]
_GATHERED_AXES = {"channel": (3, 4, 5), "cube": (2, 3, 4, 5)}  # of [B, S, C, t, p, q]


@torch.no_grad()
def reconstruction_targets(
    frames: Frames, grid: TokenGrid, tokens: Int[Tensor, "B S"], normalize: str = "channel"
) -> Float[Tensor, "B S P"]:
    """Targets of these tokens only, without gradients, from un-normalised pixels in [0, 1].

    `channel`: each cube and colour channel to mean 0 and unbiased variance 1, as released; `cube`: statistics
    over the whole cube; `none`: raw pixels. UserError where a cube is too small to have a variance.
    """
    pixels = unit_range(gather_cubes(frames, grid, tokens))
    if normalize != "none":
        mean, deviation = _statistics(pixels, _axes(normalize, grid, _GATHERED_AXES))
        pixels = pixels.sub(mean).div_(deviation)
    return flatten_cubes(pixels)


def denormalize(
    prediction: Float[Tensor, "B S P"],
    pixels: Float[Tensor, "B S P"],
    grid: TokenGrid,
    normalize: str = "channel",
) -> Float[Tensor, "B S P"]:
    """Predictions as pixels, with the mean and deviation of the true cubes `pixels` ([0, 1], from `cubes`),
    for looking at.
    """
    if normalize == "none":
        return prediction
    mean, deviation = _statistics(_by_channel(pixels, grid), _axes(normalize, grid, _AXES))
    return (_by_channel(prediction, grid) * deviation + mean).flatten(2)


def _axes(normalize: str, grid: TokenGrid, axes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The axes that statistics are taken over."""
    if normalize not in axes:
        raise UserError(f"target normalisation {normalize!r} came; choose channel, cube or none")
    if (grid.cube_pixels if normalize == "channel" else grid.cube_values) < 2:
        raise UserError(
            f"a cube of one value has no variance to normalise by ({grid}); use target.normalize = none"
        )
    return axes[normalize]


def _statistics(pixels: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    # Two passes: torch's variance takes one, and on a CPU ten times as long.
    mean = pixels.mean(axes, keepdim=True)
    count = pixels.numel() // mean.numel()
    return mean, torch.linalg.vector_norm(pixels - mean, dim=axes, keepdim=True) / (
        count - 1
    ) ** 0.5 + _EPSILON


def _by_channel(values: Tensor, grid: TokenGrid) -> Tensor:
    return values.unflatten(2, (grid.cube_pixels, grid.channels))
