"""Videos that were cut or joined: exactly the frames that a player shows, each by its number."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from videomae2.data.video.decode import open_video
from videomae2.data.video.opening import DecodeError

OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:scenecut=0"}
PACKET = 188
"""Bytes of a transport packet."""


def as_played(path: Path) -> list[np.ndarray]:
    """Every frame that FFmpeg shows, in order."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def must_read_as_played(path: Path) -> int:
    """Counted, read in a row and each alone, the frames are those of a player; their number."""
    played = as_played(path)
    with open_video(path) as video:
        assert video.num_frames == len(played)
        assert video.verify() == len(played)
        frames = video.read(range(len(played))).permute(0, 2, 3, 1).numpy()
        assert len(video.timestamps()) == len(played)
    assert all((ours == theirs).all() for ours, theirs in zip(frames, played, strict=True))
    for number in (0, 1, 2, 3, len(played) // 2, len(played) - 1):
        with open_video(path) as video:
            alone = video.read([number])[0].permute(1, 2, 0).numpy()
        assert (alone == played[number]).all(), number
    return len(played)


def trim(source: Path, hidden_first: int, hidden_last: int, rate: int, num_frames: int) -> Path:
    """A copy whose edit list hides frames, as phones trim without encoding again."""
    data = bytearray(source.read_bytes())
    edits = data.index(b"elst")
    scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    media_scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    start = struct.unpack_from(">i", data, edits + 16)[0]
    length = round((num_frames - hidden_first - hidden_last) / rate * scale)
    struct.pack_into(">Ii", data, edits + 12, length, start + round(hidden_first / rate * media_scale))
    path = source.with_name("trimmed.mp4")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 2), (0, 5), (1, 0), (3, 1), (13, 1)])
@pytest.mark.parametrize("bf", ["0", "2", "7"])
def test_edit_lists_hide_what_a_player_hides(
    bf: str, first: int, last: int, tmp_path: Path, write_numbered: Callable[..., Path]
) -> None:
    options = {"bf": bf, "x264-params": "b-adapt=0:b-pyramid=normal"}
    whole = write_numbered(tmp_path / "whole.mp4", num_frames=30, rate=25, **options)
    assert must_read_as_played(trim(whole, first, last, 25, 30)) == 30 - first - last


@pytest.mark.parametrize("later", [0, 10, 60, 300])
def test_joined_transport_streams_are_read_whole(
    later: int, tmp_path: Path, write_numbered: Callable[..., Path], numbers_of: Callable[[Any], list[int]]
) -> None:
    parts = [
        write_numbered(tmp_path / f"{n}.ts", num_frames=60, times=range(start, start + 60), bf="2")
        for n, start in enumerate((0, later))
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert must_read_as_played(joined) == 120
    with open_video(joined) as video:
        assert numbers_of(video.read(range(120))) == [*range(60), *range(60)]


def test_a_loss_inside_a_transport_stream_is_no_join(
    tmp_path: Path, write_numbered: Callable[..., Path]
) -> None:
    data = write_numbered(tmp_path / "a.ts", num_frames=60, gop=60, bf="2", size=(320, 240)).read_bytes()
    middle = len(data) // PACKET // 2 * PACKET
    lossy = tmp_path / "lossy.ts"
    lossy.write_bytes(data[:middle] + data[middle + PACKET :])
    with pytest.raises(DecodeError, match="corrupt"), open_video(lossy) as video:
        video.verify()


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mpeg2video", {"bf": "2"}),
        ("libx264", OPEN_GOP),
        ("libx265", {"x265-params": "open-gop=1:log-level=0"}),
    ],
)
@pytest.mark.parametrize("container", ["ts", "mkv"])
def test_streams_cut_before_a_key_frame_show_what_can_be_shown(
    container: str, codec: str, options: dict[str, str], tmp_path: Path, write_numbered: Callable[..., Path]
) -> None:
    try:
        whole = write_numbered(tmp_path / "whole.ts", codec=codec, num_frames=60, rate=25, **options)
    except (av.codec.codec.UnknownCodecError, av.error.FFmpegError):
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    data = whole.read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(data[len(data) // PACKET // 3 * PACKET :])
    if container == "mkv":
        cut = copied(cut, tmp_path / "cut.mkv")
    num_frames = must_read_as_played(cut)
    assert 12 <= num_frames < 60


def copied(source: Path, path: Path) -> Path:
    """The same packets, from the first key packet on, in another container."""
    with av.open(str(source)) as read, av.open(str(path), "w") as written:
        stream: Any = written.add_stream_from_template(read.streams.video[0])
        started = False
        for packet in read.demux(video=0):
            started = started or packet.is_keyframe
            if started and packet.dts is not None:
                packet.stream = stream
                written.mux(packet)
    return path
