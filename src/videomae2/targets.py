"""What a prediction is compared with: the pixels of the scored cubes, normalised (paper 3.2; released engine)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videomae2.cubes import Frames, cubes, paste
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid

__all__ = ["cubes", "denormalize", "paste", "reconstruction_targets"]

_EPSILON = 1e-6  # released: added to the standard deviation, not to the variance
_AXES = {"channel": (2,), "cube": (2, 3)}  # of [B, S, pixels, channels]


@torch.no_grad()
def reconstruction_targets(
    frames: Frames, grid: TokenGrid, tokens: Int[Tensor, "B S"], normalize: str = "channel"
) -> Float[Tensor, "B S P"]:
    """Targets of these tokens only, without gradients, from un-normalised pixels in [0, 1].

    `channel`: each cube and colour channel to mean 0 and unbiased variance 1, as released; `cube`: statistics over the
    whole cube; `none`: raw pixels. UserError where a cube is too small to have a variance.
    """
    pixels = cubes(frames, grid, tokens)  # a copy: what follows may write on it
    if normalize == "none":
        return pixels
    mean, deviation = _statistics(pixels, grid, normalize)
    return _by_channel(pixels, grid).sub_(mean).div_(deviation).flatten(2)


def denormalize(
    prediction: Float[Tensor, "B S P"], pixels: Float[Tensor, "B S P"], grid: TokenGrid, normalize: str = "channel"
) -> Float[Tensor, "B S P"]:
    """Predictions as pixels, with the mean and deviation of the true cubes `pixels` ([0, 1], from `cubes`), for looking at."""
    if normalize == "none":
        return prediction
    mean, deviation = _statistics(pixels, grid, normalize)
    return (_by_channel(prediction, grid) * deviation + mean).flatten(2)


def _statistics(pixels: Tensor, grid: TokenGrid, normalize: str) -> tuple[Tensor, Tensor]:
    if normalize not in _AXES:
        raise UserError(f"target normalisation {normalize!r} came; choose channel, cube or none")
    if (grid.cube_pixels if normalize == "channel" else grid.cube_values) < 2:
        raise UserError(f"a cube of one value has no variance to normalise by ({grid}); use target.normalize = none")
    variance, mean = torch.var_mean(_by_channel(pixels, grid), dim=_AXES[normalize], correction=1, keepdim=True)
    return mean, variance.sqrt() + _EPSILON


def _by_channel(values: Tensor, grid: TokenGrid) -> Tensor:
    return values.unflatten(2, (grid.cube_pixels, grid.channels))
