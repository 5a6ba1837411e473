"""Token grids: counts, refusals that say what divides, and any tubelet."""

from typing import Any

import pytest

from videomae2.errors import UserError
from videomae2.geometry import TokenGrid


@pytest.mark.parametrize(
    ("grid", "shape", "tokens", "values"),
    [
        (TokenGrid(), (8, 14, 14), 1568, 1536),
        (TokenGrid.square(patch=14), (8, 16, 16), 2048, 1176),
        (TokenGrid.square(64, 266, patch=14), (32, 19, 19), 11552, 1176),
        (TokenGrid.square(1, 32, tubelet=1, patch=8), (1, 4, 4), 16, 192),
        (TokenGrid(9, 32, 48, 3, 16), (3, 2, 3), 18, 2304),
    ],
)
def test_counts(grid: TokenGrid, shape: tuple[int, ...], tokens: int, values: int) -> None:
    assert grid.shape == shape
    assert grid.num_tokens == tokens == grid.num_steps * grid.tokens_per_step
    assert grid.cube_values == values == grid.cube_pixels * 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_frames": 15}, "num_frames 15 is not a multiple of tubelet 2; try num_frames 14 or 16"),
        ({"height": 220}, "height 220 is not a multiple of patch 16; try height 208 or 224"),
        ({"width": 8}, "width 8 is not a multiple of patch 16; try width 16"),
        ({"tubelet": 0}, "expected tubelet to be a whole number of at least 1, got 0"),
        ({"num_frames": True}, "expected num_frames to be a whole number of at least 1, got True"),
    ],
)
def test_what_does_not_divide_is_refused_with_what_would(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        TokenGrid(**arguments)


@pytest.mark.usefixtures("unchecked")
def test_a_side_is_a_whole_number() -> None:
    with pytest.raises(UserError, match=r"expected patch to be a whole number of at least 1, got 16\.0"):
        TokenGrid(patch=16.0)  # type: ignore[arg-type]


def test_clips_of_another_shape_are_refused() -> None:
    grid = TokenGrid.square(8, 32, patch=8)
    grid.check_clip((5, 8, 3, 32, 32))
    for shape in [(5, 8, 3, 32, 40), (5, 3, 8, 32, 32), (8, 3, 32, 32)]:
        with pytest.raises(UserError, match=r"expected clips \[B, 8, 3, 32, 32\] .*resize or resample"):
            grid.check_clip(shape)


def test_time_and_text() -> None:
    grid = TokenGrid()
    assert grid.step_seconds(25.0, stride=4) == pytest.approx(0.32)
    assert str(grid) == "16x224x224 pixels in 2x16x16 cubes -> 8x14x14 = 1568 tokens"
