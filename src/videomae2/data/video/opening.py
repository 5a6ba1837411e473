"""The two ends of a decoder: opening a container, or why not; and the upright RGB picture that leaves."""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.stream
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from videomae2.bounds import SHOWN
from videomae2.data.file_names import kind_of, printable, shown_path
from videomae2.data.video.transport import Patience, RemoteFile, is_there
from videomae2.errors import UserError

VideoSource = str | Path | BinaryIO

REMOTE_SECONDS = (10.0, 30.0)
"""How long FFmpeg waits for a server's first answer, and for its next."""

MOST_ASPECT = 200
"""A picture that is longer than so many times its width fills the memory once it is scaled for a network."""
MOST_PIXELS = 1 << 27
"""No camera films as large; a header of a few bytes can say it, and a decoder would make the room for it."""


def _unnamed(cls: Any, value: int) -> Any:
    """A kind of side data that PyAV has no name for, such as the EXIF of a camera's JPEG."""
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNNAMED_{value}", value
    return member


# One unknown kind beside a frame, and PyAV refuses to list any of them, the display matrix included.
SideDataType._missing_ = classmethod(_unnamed)  # type: ignore[method-assign, assignment]


class DecodeError(UserError):
    """A video that cannot be read: `path` and `reason`, one line. A loader records it and goes on."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{shown_path(path)}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[str, str]]:
        return type(self), (self.path, self.reason)


UNREADABLE = (DecodeError, av.error.FFmpegError, OSError, EOFError, MemoryError, UnicodeError)
"""What a strange file provokes.

Anything else (TypeError, IndexError ...) is a fault of ours, which must not pass for a broken file.
"""


def why_unreadable(error: Exception) -> str:
    """The reason of one of `UNREADABLE`, on one line."""
    return error.reason if isinstance(error, DecodeError) else f"{type(error).__name__}: {plain(error)}"


@contextmanager
def provoked_by(name: str) -> Iterator[None]:
    """Inside, whatever FFmpeg or PyAV raises is the failure of the file that is read."""
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(name, f"FFmpeg cannot read it: {plain(error)}") from None


def name_of(source: VideoSource) -> str:
    """The path or URL, for messages."""
    return printable(str(source if isinstance(source, str | Path) else getattr(source, "name", "<stream>")))


def open_container(source: VideoSource, name: str, patience: Patience | None = None) -> tuple[Any, Any]:
    """PyAV's container, and the file behind a URL that must be closed with it, if any. DecodeError."""
    file: Any = None
    try:
        # A tag in a strange encoding must not make a video unreadable: hence metadata_errors.
        if not isinstance(source, str | Path):
            source.seek(0)
            return av.open(source, metadata_errors="replace"), None
        path = str(source)
        if "://" in path:
            if not _known_to_fsspec(path):
                return av.open(path, metadata_errors="replace", timeout=REMOTE_SECONDS), None
            file = RemoteFile(path, patience or Patience())
        else:
            _must_be_a_file(path, name)
            if path == printable(path):
                return av.open(_as_file(path), metadata_errors="replace"), None
            file = Path(path).open("rb")  # noqa: SIM115 - whoever closes the container closes it
        return av.open(file, metadata_errors="replace"), file
    except DecodeError:
        raise
    except Exception as error:  # whatever a strange file provokes in FFmpeg, PyAV or a network is its failure
        if file is not None:
            file.close()
        raise DecodeError(name, f"not a video that FFmpeg can read: {plain(error)}") from None


def _known_to_fsspec(url: str) -> bool:
    """Whether fsspec reads a URL; else FFmpeg has to, for want of a package of fsspec's (aiohttp)."""
    import fsspec

    try:
        fsspec.get_filesystem_class(url.partition("://")[0])
    except ImportError:
        return False
    return True


def _as_file(path: str) -> str:
    """The path as FFmpeg takes it: in `12:30.mp4` it would see a protocol named 12."""
    return f"./{path}" if ":" in path.partition("/")[0] else path


def _must_be_a_file(path: str, name: str) -> None:
    kind = kind_of(path)
    if not kind and is_there(path):  # the first look has met a fault that is over
        kind = kind_of(path)
    if not kind:
        raise DecodeError(name, "no such file")
    if kind == "folder":
        raise DecodeError(
            name,
            "is a folder, not a video file; a folder of frames needs a `pattern` in the manifest, such as "
            "img_{:05}.jpg",
        )
    if kind != "file":  # a pipe would be waited for without end
        raise DecodeError(name, f"is a {kind}, not a video file")
    if Path(path).stat().st_size == 0:
        raise DecodeError(name, "the file is empty")


def video_stream(container: Any, name: str) -> Any:
    """The stream FFmpeg finds best; a cover picture is none. DecodeError, and the container is closed."""
    stream = container.streams.best("video")
    # A cover picture in a music file is, to FFmpeg, a video stream of one frame.
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = sorted({other.type for other in container.streams if other is not stream})
        container.close()
        raise DecodeError(name, f"no video stream in it, only {' and '.join(kinds) or 'nothing'}")
    if stream.codec_context is None:
        container.close()
        raise DecodeError(name, "its video is in a codec that FFmpeg does not know, or its header is cut off")
    for other in container.streams:
        if other.index != stream.index and hasattr(other, "discard"):
            other.discard = av.stream.Discard.all  # sound and subtitles are not even read
    return stream


def promised_seconds(container: Any, stream: Any) -> float:
    """How long the header says the video is; 0 where it does not speak of this stream alone."""
    if tag := stream.metadata.get("DURATION"):  # Matroska's, such as 00:00:08.000000000
        try:
            hours, minutes, seconds = tag.split(":")
            # It counts from time zero, and what was cut out of a longer recording starts later.
            late = float((stream.start_time or 0) * stream.time_base)
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - max(late, 0.0)
        except ValueError:
            return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration
    return container.duration / av.time_base if alone else 0.0


def needs_its_first_packet(packet: Any) -> bool:
    """Whether H.264 is by an old x264, whose faults FFmpeg undoes where it has read the version.

    Only the first packet says the version. Builds before 151 wrote 4:4:4 in a way of their own (the oldest,
    direct prediction too): after a seek, without that packet, every frame comes out wrong.
    """
    found = re.search(rb"x264 - core (\d+)", bytes(packet))
    return found is not None and int(found[1]) < 151


def identity(source: VideoSource) -> tuple[str | int, ...] | None:
    """What tells a file apart from what it was before it changed; None for an open file, which has none."""
    if not isinstance(source, str | Path):
        return None
    name = str(source)
    if "://" in name:
        return (name,)
    try:
        status = Path(name).stat()
    except (OSError, ValueError):
        return None
    return name, status.st_size, status.st_mtime_ns


def plain(error: BaseException) -> str:
    """FFmpeg's own words, on one line that a terminal bears."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


@dataclass(frozen=True)
class Orientation:
    """What to do with a stored picture, in this order: swap rows and columns, mirror left-right, up-down.

    Phones store pictures as the sensor lies and write a display matrix beside them.
    """

    transpose: bool = False
    mirror: bool = False
    upend: bool = False

    @classmethod
    def of(cls, frame: Any) -> "Orientation":
        """The orientation of a decoded frame: (x, y) goes to (a x + c y, b x + d y) by its display matrix."""
        side = frame.side_data.get("DISPLAYMATRIX")
        if side is None:
            return cls()
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side))
        if abs(b) > abs(a):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    @property
    def degrees(self) -> int:
        """The turn, clockwise; mirrored pictures count as the turn that goes with a left-right mirror."""
        if self.transpose:
            return 90 if self.mirror else 270
        return 180 if self.upend else 0

    def displayed(self, width: int, height: int) -> tuple[int, int]:
        """Width and height on the screen of a picture stored with these."""
        return (height, width) if self.transpose else (width, height)

    def upright(self, picture: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H2 W2 C"]:
        """The picture as it is to be seen (a view, not a copy)."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        if self.mirror:
            picture = picture[:, ::-1]
        return picture[::-1] if self.upend else picture


class Converter:
    """Makes RGB pictures of a stream's frames, all of one size.

    `short_side` scales while the colours are converted, so that the shorter side has that many pixels; with
    `at_most`, only where it has more. `source` is (height, width) of the first frame as displayed, unscaled.
    """

    def __init__(self, short_side: int | None = None, at_most: bool = False) -> None:
        self.source = (0, 0)
        self._short_side, self._at_most = short_side, at_most
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> UInt8[np.ndarray, "H W C"]:
        """The frame as RGB; a view where the decoder's memory allows it, so to be copied by who keeps it."""
        turn = Orientation.of(frame)
        if self._size is None:
            self._size = self._displayed_size(frame, turn)
        width, height = turn.displayed(*self._size)
        rgb = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        plane = rgb.planes[0]
        # FFmpeg pads each line to a multiple of its vector width.
        lines = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
        return turn.upright(lines[:height, : width * 3].reshape(height, width, 3))

    def _displayed_size(self, frame: Any, turn: Orientation) -> tuple[int, int]:
        """Width and height of every picture: a stream that changes its size midway keeps the first."""
        size = frame.width, frame.height
        if max(size) > MOST_ASPECT * min(size):
            raise ValueError(
                f"expected pictures up to {MOST_ASPECT} times as long as wide, got {size[0]} x {size[1]}"
            )
        width, height = turn.displayed(*size)
        self.source = height, width
        if self._short_side is not None and not (self._at_most and min(size) <= self._short_side):
            size = _scaled(*size, self._short_side)
        return turn.displayed(*size)


def _scaled(width: int, height: int, short_side: int) -> tuple[int, int]:
    """The same shape with a shorter side of `short_side`; the longer rounds down, as released."""
    if width <= height:
        return short_side, int(height * short_side / width)
    return int(width * short_side / height), short_side
