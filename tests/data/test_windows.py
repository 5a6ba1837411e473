"""Sliding windows: the frames of each are those that one would cut by itself, and each is decoded once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from videomae2.data.augment.crops import view_crops
from videomae2.data.video.decode import open_video
from videomae2.data.windows import Cutting, windows
from videomae2.errors import UserError

from ..small_runs import write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 frames of 40 x 48 pixels."""
    return write_video(tmp_path_factory.mktemp("windows") / "long.mp4", 1, num_frames=41)


def cut_one_by_one(path: Path, cutting: Cutting) -> list[Tensor]:
    with open_video(path) as opened:
        starts = range(0, opened.num_frames - cutting.span + 1, cutting.stride)
        reads = [opened.read(range(start, start + cutting.span, cutting.step)) for start in starts]
    return [view_crops(frames, cutting.size, 1)[0][0] for frames in reads]


@pytest.mark.parametrize(
    ("frames", "step", "stride"), [(8, 1, 4), (8, 2, 3), (4, 3, 20), (1, 1, 7), (41, 1, 1), (5, 10, 1)]
)
def test_windows_are_those_that_one_would_cut(video: Path, frames: int, step: int, stride: int) -> None:
    cutting = Cutting(frames, step, stride, 32)
    with open_video(video) as opened:
        found = list(windows(opened, cutting))
        assert opened.frames_decoded <= opened.num_frames + 1  # one more where the file had to be probed
    expected = cut_one_by_one(video, cutting)
    assert len(found) == len(expected) == cutting.count(41)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    shown = {
        start + step * place for start in range(0, 41 - cutting.span + 1, stride) for place in range(frames)
    }
    assert shown <= {number for number in range(41) if cutting.shows(number)}


def test_a_video_shorter_than_a_window_repeats_its_last_frame(video: Path) -> None:
    cutting = Cutting(16, 3, 4, 32)
    assert cutting.span == 46 and cutting.count(41) == 1
    with open_video(video) as opened:
        (found,) = windows(opened, cutting)
        numbers = [min(number, 40) for number in range(0, 46, 3)]
        frames = opened.read(range(0, 41))
    expected = view_crops(frames, 32, 1)[0][0]
    assert numbers[13:] == [39, 40, 40]
    assert torch.equal(found, expected[numbers])


def test_the_released_extraction_squashes() -> None:
    cutting = Cutting(1, 1, 40, 20, squash=True)
    picture = np.zeros((40, 48, 3), dtype=np.uint8)
    picture[:, 24:] = 200
    frame = cutting.prepare(picture)
    assert frame.shape == (3, 20, 20) and frame[0, 0, :9].max() == 0 and frame[0, 0, 11:].min() == 200
    kept = Cutting(1, 1, 40, 20).prepare(picture)
    assert kept.shape == (3, 20, 20)


def test_numbers_that_cannot_be() -> None:
    with pytest.raises(UserError, match="expected stride of at least 1, got 0"):
        Cutting(16, 1, 0, 32)
