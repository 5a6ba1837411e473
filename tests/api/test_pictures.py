"""Pictures of clips: hidden tokens are grey, shapes are what they say."""

import pytest
import torch

from videomae2.api import views as visualize
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid

GRID = TokenGrid(4, 8, 12, tubelet=2, patch=4)


def _clip() -> torch.Tensor:
    return torch.randint(0, 100, (4, 3, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_hidden_tokens_are_grey_and_visible_ones_untouched() -> None:
    frames = _clip()
    seen = visualize.hide(
        frames, GRID, torch.tensor([4, 6])
    )  # tokens are raster (time, row, column): 2 x 2 x 3
    expected = torch.full_like(frames, 128)
    expected[0:2, :, 4:8, 4:8] = frames[0:2, :, 4:8, 4:8]  # token 4: step 0, row 1, column 1
    expected[2:4, :, 0:4, 0:4] = frames[2:4, :, 0:4, 0:4]  # token 6: step 1, row 0, column 0
    assert torch.equal(seen, expected)


def test_token_pixels_of_all_tokens_is_everything() -> None:
    assert visualize.token_pixels(GRID, torch.arange(GRID.num_tokens)).all()
    assert visualize.token_pixels(GRID, torch.arange(0)).sum() == 0


def test_a_clip_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="resize or resample"):
        visualize.hide(_clip()[:, :, :4], GRID, torch.tensor([0]))


def test_side_by_side_leaves_light_gaps() -> None:
    frames = _clip()
    joined = visualize.side_by_side([frames, frames, frames], gap=2)
    assert joined.shape == (4, 3, 8, 3 * 12 + 2 * 2)
    assert (joined[..., 12:14] == 255).all()
    assert torch.equal(joined[..., 14:26], frames)


def test_a_strip_spreads_over_the_whole_clip() -> None:
    frames = torch.arange(16, dtype=torch.uint8)[:, None, None, None].expand(16, 3, 2, 2)
    picture = visualize.strip(frames, count=4, gap=0)
    assert picture.shape == (3, 2, 8)
    assert picture[0, 0, ::2].tolist() == [0, 5, 10, 15]


def test_a_strip_of_a_short_clip_shows_every_frame() -> None:
    assert visualize.strip(_clip()[:1], count=8, gap=3).shape == (3, 8, 12)
    with pytest.raises(UserError, match="expected a strip of at least 1 frame, got 0"):
        visualize.strip(_clip(), count=0)


def test_stack_and_enlarge() -> None:
    picture = _clip()[0]
    assert visualize.stack([picture, picture], gap=1).shape == (3, 17, 12)
    large = visualize.enlarge(picture, at_least=20)
    assert large.shape == (3, 24, 36)
    assert torch.equal(large[:, ::3, ::3], picture)
    assert torch.equal(visualize.enlarge(picture, at_least=4), picture)


def test_bytes_from_floats_clip_and_round() -> None:
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, float("nan")])
    assert visualize.to_uint8(values).tolist() == [0, 0, 128, 255, 255, 128]


def test_pictures_of_different_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="expected pictures of one shape to join, got shapes"):
        visualize.side_by_side([_clip(), _clip()[..., :4]])
