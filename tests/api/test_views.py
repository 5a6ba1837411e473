"""Views of a video, from a path or from frames at hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.api.views import (
    Reconstruction,
    load_video,
    reconstruction_blocks,
    some_videos,
    trained_sampling,
    views_of,
)
from videomae2.errors import UserError
from videomae2.report.page import Note, Strips
from videomae2.settings import DataSettings, ModelSettings

from ..small_runs import DATA as RUN_DATA
from ..small_runs import SmallRuns, write_video

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


@pytest.mark.parametrize(("clips", "crops"), [(0, 1), (1, 0), (-1, 1), (1, 10**9)])
def test_views_are_counted_within_bounds(clips: int, crops: int) -> None:
    frames = torch.zeros(4, 3, 24, 40, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"expected c\w+ from 1 to 1024, got"):
        views_of(frames, MODEL, DATA, clips, crops)


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
    wrong: Any
    for wrong in ({"stride": "7"}, {"stride": 10**400}, {"sampling": "upwards"}, [7]):
        with pytest.raises(UserError, match=r"metadata of the weights|as an object"):
            trained_sampling({"data": wrong})


@pytest.fixture
def found() -> Reconstruction:
    """Three clips of 8 frames of 32x32, each of one grey."""
    first, second, third = (torch.full((8, 3, 32, 32), grey, dtype=torch.uint8) for grey in (10, 20, 30))
    return Reconstruction(first, second, third, error=0.5)


def test_clips_side_by_side_and_strips_of_frames(found: Reconstruction) -> None:
    assert found.side_by_side().shape == (8, 3, 32, 3 * 32 + 2 * 4)
    assert found.side_by_side(at_least=60).shape == (8, 3, 64, 3 * 64 + 2 * 4)
    strip = found.strip(4)
    assert strip.shape == (3, 3 * 32 + 2 * 4, 4 * 32 + 3 * 4)
    assert [int(strip[0, row, 0]) for row in (0, 36, 72)] == [10, 20, 30]


def test_each_row_of_a_strip_has_its_name(found: Reconstruction) -> None:
    strips = found.strips(4, at_least=64)
    assert list(strips) == ["original", "seen by the encoder", "reconstruction"]
    assert {strip.shape for strip in strips.values()} == {(3, 64, 4 * 64 + 3 * 4)}


def test_blocks_leave_out_videos_that_cannot_be_read(found: Reconstruction) -> None:
    def reconstruct(video: str | Path) -> Reconstruction:
        if video == "gone.mp4":
            raise UserError("gone")
        return found

    note, strips = reconstruction_blocks(reconstruct, ["gone.mp4", "folder/there.mp4"])
    assert isinstance(note, Note) and isinstance(strips, Strips)
    assert (strips.title, strips.caption) == (
        "Reconstruction of there.mp4",
        "Loss on the hidden cubes: 0.500.",
    )
    assert [name for name, _ in strips.rows] == ["original", "seen by the encoder", "reconstruction"]
    assert all(len(frames) == 8 for _, frames in strips.rows)
    assert all(png.startswith(b"\x89PNG") for _, frames in strips.rows for png in frames)
    assert reconstruction_blocks(reconstruct, ["gone.mp4"]) == []


def test_what_is_borrowed_from_the_truth_is_a_row_of_its_own(found: Reconstruction) -> None:
    borrowed = replace(found, means=found.original)
    assert list(borrowed.clips) == ["original", "seen by the encoder", "true means only", "reconstruction"]
    note, strips = reconstruction_blocks(lambda _: borrowed, ["there.mp4"])
    assert isinstance(note, Note) and isinstance(strips, Strips)
    assert "how much of the picture is borrowed" in note.text and "1.0 = knows nothing" in strips.caption


def test_a_few_videos_are_spread_over_the_manifest(runs: SmallRuns, tmp_path: Path) -> None:
    data = replace(RUN_DATA, train="not read", val=str(runs.videos))
    names = [str(Path(path).relative_to(runs.videos)) for path in some_videos(data)]
    assert names == ["left/0.mp4", "left/2.mp4", "right/1.mp4"]
    assert some_videos(replace(RUN_DATA, train=str(runs.videos))) == some_videos(data)
    assert some_videos(replace(RUN_DATA, train=str(tmp_path / "gone.csv"))) == []
