"""What people name as a video: read, or that file's failure in one line, never the end of a run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from videomae2.data.rows import FrameFolder
from videomae2.data.tables.inspect import check, inspect_row
from videomae2.data.tables.manifest import Row, read_manifest
from videomae2.data.video import opening
from videomae2.data.video.decode import open_video
from videomae2.data.video.opening import DecodeError, open_container

needs_bytes = pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0"


def write_jpeg(path: Path, orientation: int) -> np.ndarray:
    """A picture of four colours with EXIF beside it, as any camera writes it; the pixels as stored."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32] = 255, (255, 0, 0), (0, 255, 0)
    with av.open(str(path), "w", format="image2") as container:
        stream: Any = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    exif = EXIF % orientation
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_with_exif_are_read_upright(orientation: int, tmp_path: Path) -> None:
    stored = write_jpeg(tmp_path / "img_00001.jpg", orientation)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(stored),
    }
    with open_video(tmp_path / "img_00001.jpg") as video:
        picture = video.read([0])[0].permute(1, 2, 0).numpy()
    assert picture.shape == upright[orientation].shape
    assert np.abs(picture.astype(int) - upright[orientation]).mean() < 12
    row = Row(str(tmp_path), start=1, end=2, pattern="img_{:05}.jpg")
    assert inspect_row(row).reason == ""


@pytest.mark.parametrize(
    "fault", [ValueError("31 is not a valid Type"), TypeError("no"), KeyError("x"), AssertionError()]
)
def test_whatever_a_decoder_raises_is_the_failure_of_that_file(
    fault: Exception, tmp_path: Path, write_numbered: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_numbered(tmp_path / "a.mp4", num_frames=12)

    def raises(*_: Any, **__: Any) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(opening.Orientation, "of", raises)
        lines: list[str] = []
        assert check(path, write=lines.append) == 1, "a check sees what training will see"
        assert lines[-1] == "1 files, 0 readable, 1 broken" and "\n" not in "".join(lines)
        with pytest.raises(DecodeError, match="cannot be used"), open_video(path) as video:
            video.read([0])
    with monkeypatch.context() as patch:
        patch.setattr(av, "open", raises)
        with pytest.raises(DecodeError, match="not a video that FFmpeg can read"):
            open_video(path)
    for name in ("video_stream", "promised_seconds"):
        with monkeypatch.context() as patch:
            patch.setattr(opening, name, raises)
            assert inspect_row(Row(str(path))).reason, name


def test_extreme_shapes_are_the_failure_of_that_file(tmp_path: Path) -> None:
    path = tmp_path / "line.gif"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 4000, 1, "rgb8"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((1, 4000, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="rgb8")))
        container.mux(stream.encode(None))
    assert "expected pictures up to 200 times" in inspect_row(Row(str(path))).reason
    with pytest.raises(DecodeError, match="4000 x 1"), open_video(path) as video:
        video.read([0], short_side=32)


def test_a_colon_makes_no_protocol(
    tmp_path: Path, write_numbered: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_numbered(tmp_path / "12:30.mp4", num_frames=3)
    write_numbered(tmp_path / "file:a.mp4", num_frames=4)
    monkeypatch.chdir(tmp_path)
    for name, num_frames in (("12:30.mp4", 3), (str(tmp_path / "12:30.mp4"), 3), ("file:a.mp4", 4)):
        with open_video(name) as video:
            assert video.num_frames == num_frames, name
    assert len(read_manifest(tmp_path)) == 2


@needs_bytes
def test_a_name_that_is_not_utf8_is_opened_and_shown_escaped(
    tmp_path: Path, write_numbered: Callable[..., Path]
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    write_numbered(tmp_path / "a.mp4", num_frames=13).rename(path)
    with open_video(path) as video:
        assert video.verify() == 13 and video.name == f"{tmp_path}/caf\\xe9.mp4"
    path.write_text("no video")
    with pytest.raises(DecodeError) as caught:
        open_video(path)
    assert str(caught.value).isprintable() and "caf\\xe9.mp4" in str(caught.value)


@needs_bytes
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    wanted = {
        str(tmp_path / "pipe.mp4"): "is a named pipe",
        str(tmp_path / "folder.mp4"): "is a folder",
        str(tmp_path / "empty.mp4"): "the file is empty",
        "/dev/zero": "is a device",
        str(tmp_path / ("n" * 300 + ".mp4")): "no such file",
        "a\0b.mp4": "no such file",
        f"{tmp_path}/{'deep/' * 900}a.mp4": "no such file",
    }
    for name, words in wanted.items():
        with pytest.raises(DecodeError, match=words) as caught:
            open_container(name, name)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "pattern", ["img.jpg", "{}{}.jpg", "{:99999999999}.jpg", "{0.__class__}.jpg", "{", "{x}", "{:s}.jpg", ""]
)
def test_a_frame_pattern_has_one_number(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "img.jpg").touch()
    with pytest.raises(DecodeError, match="expected a frame pattern"):
        FrameFolder(str(tmp_path), pattern)
