"""Targets by hand, for any tubelet, without gradients; cutting into cubes and pasting are inverse."""

import math
import typing

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from videomae2.cubes import cubes, gather_cubes, paste
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.settings import TargetSettings
from videomae2.targets import (
    TARGETS,
    denormalize,
    diou_loss_1d,
    masked_mse,
    reconstruction_targets,
    sigmoid_focal_loss,
    soft_cross_entropy,
)

GRIDS = [
    TokenGrid.square(8, 32, patch=8),
    TokenGrid(6, 16, 24, 3, 8),
    TokenGrid.square(1, 16, tubelet=1, patch=4),
]


def clip(grid: TokenGrid, batch: int = 2) -> Tensor:
    return torch.randint(
        0, 256, grid.clip_shape(batch), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def all_tokens(grid: TokenGrid, batch: int = 2) -> Tensor:
    return torch.arange(grid.num_tokens).repeat(batch, 1)


def cube_by_hand(frames: Tensor, grid: TokenGrid, token: int) -> Tensor:
    """One sample's cube [t, p, p, C] by slicing."""
    _, rows, columns = grid.shape
    t, h, w = token // (rows * columns), token // columns % rows, token % columns
    time = slice(t * grid.tubelet, (t + 1) * grid.tubelet)
    tall, wide = slice(h * grid.patch, (h + 1) * grid.patch), slice(w * grid.patch, (w + 1) * grid.patch)
    return frames[time, :, tall, wide].permute(0, 2, 3, 1)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_cube_is_the_slice_of_the_clip(grid: TokenGrid) -> None:
    frames = clip(grid)
    tokens = torch.tensor([[0, grid.num_tokens - 1], [5, 2]])
    chosen = cubes(frames, grid, tokens)
    for sample in range(2):
        for place in range(2):
            expected = cube_by_hand(frames[sample], grid, int(tokens[sample, place])).flatten() / 255
            assert torch.equal(chosen[sample, place], expected)
    assert gather_cubes(frames, grid, tokens).dtype == torch.uint8
    assert torch.equal(
        cubes(frames, grid).gather(1, tokens[..., None].expand(-1, -1, grid.cube_values)), chosen
    )


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_paste_is_the_inverse(grid: TokenGrid) -> None:
    frames, tokens = clip(grid).float() / 255, all_tokens(grid)
    assert torch.equal(paste(cubes(frames, grid), tokens, grid), frames)
    tokens = torch.tensor([[3], [1]])
    marked = paste(torch.ones(2, 1, grid.cube_values), tokens, grid, canvas=frames)
    assert torch.equal(cubes(marked, grid, tokens), torch.ones(2, 1, grid.cube_values))
    others = torch.tensor([[0, 2], [0, 3]])
    assert torch.equal(cubes(marked, grid, others), cubes(frames, grid, others))
    with pytest.raises(
        UserError,
        match=r"expected cubes of .* values for the grid .*, got 5; use the grid that they were cut with",
    ):
        paste(torch.ones(2, 1, 5), tokens, grid)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_normalisations_by_hand(grid: TokenGrid) -> None:
    frames, tokens = clip(grid), torch.tensor([[4], [1]])
    cube = cube_by_hand(frames[1], grid, 1).double() / 255
    by_channel = (cube - cube.mean((0, 1, 2))) / (cube.flatten(0, 2).var(0, unbiased=True).sqrt() + 1e-6)
    by_cube = (cube - cube.mean()) / (cube.flatten().var(unbiased=True).sqrt() + 1e-6)
    for normalize, expected in {"channel": by_channel, "cube": by_cube, "none": cube}.items():
        target = reconstruction_targets(frames, grid, tokens, normalize)
        torch.testing.assert_close(target[1, 0].double(), expected.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize", ["channel", "cube"])
def test_epsilon_is_added_to_the_standard_deviation(normalize: str) -> None:
    """Where pixels hardly differ it matters, and tells 1e-6 from 1e-5 and from one inside the square root."""
    grid = TokenGrid(2, 4, 4, 2, 4)
    sign = 1 - 2 * (torch.arange(4) % 2).double()
    frames = (0.5 + 1e-6 * sign).expand(1, 2, 3, 4, 4)
    count = grid.cube_pixels if normalize == "channel" else grid.cube_values
    expected = 1e-6 / (1e-6 * (count / (count - 1)) ** 0.5 + 1e-6)
    target = reconstruction_targets(frames, grid, all_tokens(grid, 1), normalize)
    torch.testing.assert_close(target.abs(), torch.full_like(target, expected), rtol=1e-6, atol=0)


def test_a_target_of_ones_own_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def halves(frames: Tensor, grid: TokenGrid, tokens: Tensor) -> Tensor:
        return cubes(frames, grid, tokens) / 2

    monkeypatch.setitem(TARGETS, "halves", halves)
    grid, frames = GRIDS[0], clip(GRIDS[0]).float().div(255).requires_grad_()
    target = reconstruction_targets(frames, grid, all_tokens(grid), "halves")
    assert torch.equal(target, cubes(frames, grid) / 2)
    assert not target.requires_grad


def test_every_word_of_the_settings_has_its_target() -> None:
    assert typing.get_args(typing.get_type_hints(TargetSettings)["normalize"]) == tuple(TARGETS)


def test_uint8_and_float_clips_have_the_same_targets() -> None:
    grid = GRIDS[0]
    frames = clip(grid)
    as_float = reconstruction_targets(frames.float() / 255, grid, all_tokens(grid))
    assert torch.equal(reconstruction_targets(frames, grid, all_tokens(grid)), as_float)


def test_targets_carry_no_gradient_and_a_flat_cube_is_zero() -> None:
    grid = GRIDS[0]
    frames = torch.full(grid.clip_shape(1), 0.25, requires_grad=True)
    target = reconstruction_targets(frames, grid, all_tokens(grid, 1))
    assert not target.requires_grad
    assert torch.equal(target, torch.zeros_like(target))


@pytest.mark.parametrize("normalize", ["channel", "cube", "none"])
def test_denormalize_undoes_the_target(normalize: str) -> None:
    grid = GRIDS[1]
    frames, tokens = clip(grid), all_tokens(grid)
    pixels = cubes(frames, grid, tokens)
    again = denormalize(reconstruction_targets(frames, grid, tokens, normalize), pixels, grid, normalize)
    torch.testing.assert_close(again, pixels, rtol=0, atol=1e-5)


def test_refusals() -> None:
    grid = GRIDS[0]
    with pytest.raises(
        UserError, match=r"expected target\.normalize to be one of channel, cube, none, got .pixels."
    ):
        reconstruction_targets(clip(grid), grid, all_tokens(grid), "pixels")
    with pytest.raises(UserError, match=r"expected clips \[B, 8, 3, 32, 32\]"):
        reconstruction_targets(clip(GRIDS[1]), grid, all_tokens(grid))
    single = TokenGrid(1, 4, 4, 1, 1)
    with pytest.raises(UserError, match=r"got one value .*try target.normalize = none"):
        reconstruction_targets(clip(single), single, all_tokens(single))


def test_masked_mse_is_the_mean_over_scored_tokens() -> None:
    prediction, target = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    per_token = ((prediction - target) ** 2).mean(-1)
    torch.testing.assert_close(masked_mse(prediction, target), per_token.sum() / 10)


def test_soft_cross_entropy_of_one_hot_targets_is_cross_entropy() -> None:
    logits, labels = torch.randn(4, 6), torch.tensor([0, 5, 2, 2])
    torch.testing.assert_close(
        soft_cross_entropy(logits, F.one_hot(labels, 6).float()), F.cross_entropy(logits, labels)
    )
    smooth = F.one_hot(labels, 6) * 0.9 + 0.1 / 6
    torch.testing.assert_close(
        soft_cross_entropy(logits, smooth), F.cross_entropy(logits, labels, label_smoothing=0.1)
    )


def test_losses_are_float32_for_half_precision_networks() -> None:
    x, target = torch.randn(2, 3, 4, dtype=torch.bfloat16), torch.randn(2, 3, 4)
    assert masked_mse(x, target).dtype == torch.float32
    assert soft_cross_entropy(x[0], target[0].softmax(-1)).dtype == torch.float32


def test_focal_loss_by_hand() -> None:
    """At a score of 0.8: 0.25 * 0.2 ** 2 * -log 0.8 if it is right, 0.75 * 0.8 ** 2 * -log 0.2 if not."""
    logits = torch.tensor([[math.log(4), math.log(4)]])
    right, wrong = 0.25 * 0.2**2 * -math.log(0.8), 0.75 * 0.8**2 * -math.log(0.2)
    assert float(sigmoid_focal_loss(logits, torch.tensor([[1.0, 0.0]]))) == pytest.approx(
        right + wrong, rel=1e-5
    )


@pytest.mark.parametrize(
    ("predicted", "target", "value"),
    [
        ((2.0, 2.0), (4.0, 4.0), 1 - 4 / 8),  # nested, the same middle
        ((4.0, 4.0), (2.0, 1.0), 1 - 3 / 8 + (0.5 / 8) ** 2),  # nested, the other way round
        ((2.0, 4.0), (4.0, 4.0), 1 - 6 / 8 + (1 / 8) ** 2),  # touching at the end
        ((1.0, 0.0), (0.0, 3.0), 1 - 0 / 4 + (2 / 4) ** 2),  # touching at the point alone
        ((3.0, 1.0), (3.0, 1.0), 0.0),
    ],
)
def test_diou_of_touching_and_nested_segments(
    predicted: tuple[float, float], target: tuple[float, float], value: float
) -> None:
    """The value by hand; the gradient is finite, and between the two one-sided differences."""
    at, true = torch.tensor([predicted], requires_grad=True), torch.tensor([target])
    loss = diou_loss_1d(at, true)
    assert float(loss) == pytest.approx(value, abs=1e-6)
    loss.backward()
    assert at.grad is not None and bool(at.grad.isfinite().all())
    for end in (0, 1):
        step = torch.zeros(1, 2)
        step[0, end] = 1e-2
        with torch.no_grad():
            up = (diou_loss_1d(at + step, true) - loss) / 1e-2
            down = (loss - diou_loss_1d(at - step, true)) / 1e-2
        low, high = sorted((float(up), float(down)))
        assert low - 1e-2 <= float(at.grad[0, end]) <= high + 1e-2


def test_diou_pulls_a_prediction_towards_its_segment() -> None:
    for predicted in ((0.0, 0.0), (1.0, 6.0), (9.0, 9.0), (0.0, 8.0)):
        at = torch.tensor([predicted], requires_grad=True)
        diou_loss_1d(at, torch.tensor([[4.0, 4.0]])).backward()
        assert at.grad is not None
        moved = at.detach() - 0.5 * at.grad.sign()
        assert float(diou_loss_1d(moved, torch.tensor([[4.0, 4.0]]))) < float(
            diou_loss_1d(at.detach(), torch.tensor([[4.0, 4.0]]))
        )
