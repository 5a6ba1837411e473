"""Pictures of clips: hidden tokens are grey, shapes are what they say; films and pictures that are saved."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from videomae2.api import pictures
from videomae2.api import views as visualize
from videomae2.api.views import Reconstruction
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


@pytest.fixture
def found() -> Reconstruction:
    """Clips of 8 frames of 32 x 32, each of one grey."""
    first, second, third = (torch.full((8, 3, 32, 32), grey, dtype=torch.uint8) for grey in (10, 120, 200))
    for number, frame in enumerate(first):
        frame[:, 0, number] = 255  # films drop a frame that is like the one before
    return Reconstruction(first, second, third, error=0.5)


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_a_film_shows_the_clips_under_their_names(found: Reconstruction, tmp_path: Path, name: str) -> None:
    path = found.save(tmp_path / "new" / name, fps=8.0, title="clip.mp4")
    frames = frames_of(path)
    assert len(frames) % 8 == 0
    height, width, _ = frames[0].shape
    assert width == 3 * 224 + 2 * pictures.GAP + 2 * pictures.MARGIN
    top = pictures.MARGIN + 2 * pictures.LINE  # below the title and the names
    for place, grey in enumerate((10, 120, 200)):
        left = pictures.MARGIN + place * (224 + pictures.GAP)
        panel = frames[0][top + 8 : top + 216, left + 8 : left + 216].astype(int)
        assert abs(panel - grey).max() < 8
        names = frames[0][top - pictures.LINE : top, left : left + 224]
        assert names.min() < 100  # ink
    assert height > top + 224 + pictures.LINE
    assert [each.name for each in path.parent.iterdir()] == [name]


def test_a_picture_has_a_row_for_each_clip(found: Reconstruction, tmp_path: Path) -> None:
    path = found.save(tmp_path / "out.png")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    side = 128  # 32 pixels four times: at least 112
    row = 8 * side + 7 * pictures.GAP
    right = pixels[:, -pictures.MARGIN - row :]
    for place, grey in enumerate((10, 120, 200)):
        top = pictures.MARGIN + place * (side + pictures.GAP)
        assert (right[top + 8 : top + side, :side] == grey).all()
        assert pixels[top : top + side, pictures.MARGIN : -pictures.MARGIN - row].min() < 100  # its name


def test_only_files_of_ours_are_replaced(found: Reconstruction, tmp_path: Path) -> None:
    for ending in pictures.WRITERS:
        path = tmp_path / f"out{ending}"
        found.save(path)
        found.save(path)
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    (tmp_path / "clip.mp4").write_bytes(b"a video of somebody")
    (tmp_path / "folder.gif").mkdir()
    for name in ("other.png", "clip.mp4", "folder.gif"):
        with pytest.raises(UserError, match=f"{name} is there and is no reconstruction of ours"):
            found.save(tmp_path / name)
    assert (tmp_path / "clip.mp4").read_bytes() == b"a video of somebody"


@pytest.mark.parametrize("name", ["out", "out.avi", "out.jpg"])
def test_another_ending_is_refused(found: Reconstruction, name: str) -> None:
    with pytest.raises(UserError, match=r"written as \.mp4, \.gif, \.png, got out.*; try out\.mp4"):
        found.save(name)


def test_odd_sides_are_padded_and_short_clips_repeat(tmp_path: Path) -> None:
    pictures.write_mp4(torch.zeros(4, 3, 33, 51, dtype=torch.uint8), 8.0, tmp_path / "odd.mp4")
    assert [frame.shape[:2] for frame in frames_of(tmp_path / "odd.mp4")] == [(34, 52)] * 32


def test_words_are_broken_to_the_width() -> None:
    lines = pictures._wrapped(["one two three four five six seven eight nine ten"], 120)
    assert len(lines) > 2 and all(pictures._length(line) < 150 for line in lines)
