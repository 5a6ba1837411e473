"""From manifest rows to pictures: folders of frames read like a video; numbers count from a row's start."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from videomae2.data.rows import FrameFolder, Pictures, open_row, read_pictures
from videomae2.data.tables.manifest import Row, read_manifest
from videomae2.data.video.opening import DecodeError
from videomae2.records import Failure
from videomae2.settings import DataSettings


def read_row(row: Row, indices: Sequence[int]) -> torch.Tensor:
    """Frames counted from the row's own start."""
    with open_row(row) as video:
        return video.read(np.asarray(indices, dtype=np.int64) + row.start)


def test_a_row_counts_from_its_own_start(
    tmp_path: Path, write_numbered: Callable[..., Path], numbers_of: Callable[[Any], list[int]]
) -> None:
    path = write_numbered(tmp_path / "v.mp4")
    assert numbers_of(read_row(Row(str(path), start=20, end=40), [0, 5])) == [20, 25]


def test_a_folder_of_frames_reads_like_a_video(
    tmp_path: Path, numbers_of: Callable[[Any], list[int]]
) -> None:
    _write_frames(tmp_path / "one", range(1, 31))
    with open_row(Row(str(tmp_path / "one"), pattern="img_{:05}.png")) as frames:
        assert frames.num_frames == 30
        assert numbers_of(frames.read([0, 29, 4])) == [1, 30, 5], (
            "without a start, the first picture is frame 0"
        )
    released = Row(str(tmp_path / "one"), start=1, end=31, pattern="img_{:05}.png")
    assert numbers_of(read_row(released, [0, 29])) == [1, 30], (
        "a released list counts as the pictures are numbered"
    )
    _write_frames(tmp_path / "late", range(960, 990))
    assert FrameFolder(str(tmp_path / "late"), "img_{:05}.png", 965).num_frames == 990
    assert numbers_of(read_row(Row(str(tmp_path / "late"), 965, 980, pattern="img_{:05}.png"), [3])) == [968]


def test_a_folder_of_frames_says_what_is_missing(tmp_path: Path) -> None:
    _write_frames(tmp_path / "f", range(1, 6))
    with pytest.raises(DecodeError, match=r"holds no frame img_00001\.jpg"):
        FrameFolder(str(tmp_path / "f"), "img_{:05}.jpg")
    with pytest.raises(DecodeError, match="expected a frame pattern like img_"):
        FrameFolder(str(tmp_path / "f"), "img_{nonsense}.jpg")
    with pytest.raises(DecodeError, match=r"img_00007\.png: no such file"):
        read_row(Row(str(tmp_path / "f"), 1, 9, pattern="img_{:05}.png"), [6])


def _write_frames(folder: Path, numbers: range) -> None:
    folder.mkdir()
    for number in numbers:
        cells = np.array([number >> bit & 1 for bit in range(12)], dtype=np.uint8).reshape(3, 4) * 255
        Image.fromarray(np.kron(cells, np.ones((16, 16), np.uint8))).convert("RGB").save(
            folder / f"img_{number:05}.png"
        )


@pytest.mark.parametrize("together", [True, False])
def test_each_wanted_frame_is_made_once_and_the_source_size_is_said(
    together: bool,
    tmp_path: Path,
    write_numbered: Callable[..., Path],
    numbers_of: Callable[[Any], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not together:
        monkeypatch.setattr("videomae2.data.rows.TOGETHER_BYTES", 0)
    manifest = read_manifest(write_numbered(tmp_path / "v.mp4", size=(128, 96)))
    shrunk: list[int] = []

    def draw(count: int, stride: int) -> np.ndarray:
        assert (count, stride) == (60, 2)
        return np.array([7, 3, 7, 9])

    def shrink(pictures: torch.Tensor) -> list[torch.Tensor]:
        shrunk.append(len(pictures))
        return [pictures, pictures.flip(-1)]

    data = DataSettings(stride=2)
    read = read_pictures(manifest, 0, data, draw, shrink, short_side_at_most=48)
    assert isinstance(read, Pictures) and read.source == (96, 128) and read.places.tolist() == [1, 0, 1, 2]
    assert shrunk == ([3] if together else [1, 1, 1])
    assert [[picture.shape for picture in part] for part in read.parts] == [[(1, 3, 48, 64)] * 3] * 2
    assert [numbers_of(picture)[0] for picture in read.parts[0]] == [3, 7, 9]


def test_a_row_that_begins_after_its_video_is_a_failure(
    tmp_path: Path, write_numbered: Callable[..., Path]
) -> None:
    write_numbered(tmp_path / "v.mp4")
    (tmp_path / "list.csv").write_text("path,start\nv.mp4,60\n")
    manifest = read_manifest(tmp_path / "list.csv")
    read = read_pictures(manifest, 0, DataSettings(), lambda *_: np.arange(1), lambda each: [each])
    assert isinstance(read, Failure) and read.reason == "the row begins at frame 60, but there are 60"
