"""Views of a video, from a path or from frames at hand."""

from pathlib import Path

import pytest
import torch

from videomae2.api.views import load_video, trained_sampling, views_of
from videomae2.errors import UserError
from videomae2.settings import DataSettings, ModelSettings

from ..small_runs import write_video

MODEL = ModelSettings(num_frames=4, size=24)
DATA = DataSettings(stride=1, workers=0)


def test_views_are_clips_times_crops_and_one_is_the_centre(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 2, num_frames=20)
    views = views_of(path, MODEL, DATA, clips=2, crops=3)
    assert views.shape == (6, 4, 3, 24, 24)
    assert len({view.numpy().tobytes() for view in views}) == 6
    assert torch.equal(views_of(path, MODEL, DATA)[0], load_video(path, num_frames=4, stride=1, size=24))


def test_frames_at_hand_are_one_clip_only_cropped() -> None:
    frames = torch.randint(0, 256, (4, 3, 24, 40), dtype=torch.uint8)
    views = views_of(frames, MODEL, DATA, clips=5, crops=3)
    assert torch.equal(views[1], frames[..., 8:32])
    assert views.shape == (3, 4, 3, 24, 24)
    with pytest.raises(
        UserError, match=r"expected frames \[4, 3, H, W\], .* got \[3, 3, 24, 40\]; load them"
    ):
        views_of(frames[:3], MODEL, DATA)


def test_load_video_gives_the_middle_of_any_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 2, num_frames=20)
    clip = load_video(path, num_frames=4, stride=2, size=24)
    assert (clip.dtype, clip.shape) == (torch.uint8, (4, 3, 24, 24))
    short = write_video(tmp_path / "short.mp4", 2, num_frames=3)
    assert load_video(short, num_frames=8, stride=4, size=24).shape == (8, 3, 24, 24)
    with pytest.raises(UserError, match=r"no\.mp4"):
        load_video(tmp_path / "no.mp4")
    with pytest.raises(UserError, match="expected size of 1 or more, got 0"):
        load_video(path, size=0)


def test_sampling_is_what_the_weights_say_and_else_the_default() -> None:
    data = trained_sampling({"data": {"stride": 7, "of_another_version": 1}})
    assert (data.stride, data.sampling, data.workers) == (7, DataSettings().sampling, 0)
    assert trained_sampling({}) == DataSettings(workers=0)
