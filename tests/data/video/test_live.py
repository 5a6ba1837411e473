"""Cameras and streams: clips of the frames that come, and no camera said so."""

from pathlib import Path

import av
import pytest
import torch

from videomae2.data.video.decode import open_video
from videomae2.data.video.live import clips_of, is_live, live_clips
from videomae2.errors import UserError

from ...small_runs import write_video


@pytest.mark.parametrize(
    "name", ["0", "12", "rtsp://host/stream", "RTMP://host/app", "udp://@239.0.0.1:1234"]
)
def test_cameras_and_streams_are_told_from_files(name: str) -> None:
    assert is_live(name)


@pytest.mark.parametrize("name", ["clip.mp4", "", "0.mp4", "https://host/clip.mp4", "s3://bucket/0", "²"])
def test_files_are_no_streams(name: str) -> None:
    assert not is_live(name)


def test_clips_are_the_frames_as_they_come(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 2, num_frames=21)
    with open_video(path) as video:
        expected = video.read(range(0, 20, 2))
    with av.open(str(path)) as container:
        found = list(clips_of(container, "clip", num_frames=5, stride=2, target_fps=0.0))
    assert len(found) == 2
    assert torch.equal(torch.cat([clip for _, clip in found]), expected)
    assert found[0][0] == pytest.approx(8 / 25)


def test_time_between_frames_follows_the_rate_that_is_asked_for(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 2, num_frames=21)  # 25 frames a second
    with av.open(str(path)) as container:
        found = list(clips_of(container, "clip", num_frames=2, stride=1, target_fps=5.0))
    assert [round(seconds * 25) for seconds, _ in found] == [5, 15]


def test_a_camera_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UserError, match=r"expected a camera, got 97, and there is no /dev/video97; "):
        next(live_clips("97", 8, 1))


def test_a_stream_that_cannot_be_opened_is_one_line() -> None:
    with pytest.raises(UserError, match=r"rtsp://127.0.0.1:9/x: cannot be opened: ") as caught:
        next(live_clips("rtsp://127.0.0.1:9/x", 8, 1))
    assert "\n" not in str(caught.value)
