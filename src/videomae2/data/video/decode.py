"""Frames of a video file by number: exact, upright, RGB, at the price of a seek. Built on PyAV."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, from_numpy

from videomae2.data.video import frame_index
from videomae2.data.video.numbering import MistimedError
from videomae2.data.video.opening import DecodeError, Source
from videomae2.data.video.orientation import Orientation
from videomae2.data.video.stream import FrameStream

__all__ = ["DecodeError", "VideoFile", "VideoInfo", "open_video", "probe"]

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class VideoInfo:
    """What a video is: width and height as displayed (after `rotation`, degrees clockwise), frames a second,
    seconds.
    """

    num_frames: int
    fps: float
    width: int
    height: int
    rotation: int
    duration: float
    codec: str
    pixel_format: str
    constant_rate: bool


def probe(source: Source) -> VideoInfo:
    """What a video is, at the price of its first frame. DecodeError where it cannot be read."""
    with VideoFile(source) as video:
        return video.info


def open_video(source: Source, threads: int = 1) -> "VideoFile":
    """Open a path, a URL that fsspec knows, or a binary file that can seek."""
    return VideoFile(source, threads)


class VideoFile:
    """An open video: `num_frames`, `fps`, `read(indices)`. Use as a context manager. DecodeError where it
    cannot be read.

    `source` is a path, a URL that fsspec knows, or a binary file that can seek. One decoding thread unless
    told, because a loader runs one process for each core. Memory does not grow with the length of the video.
    """

    def __init__(self, source: Source, threads: int = 1) -> None:
        self._stream = FrameStream(source, threads)
        self._reformatter = VideoReformatter()
        self._info: VideoInfo | None = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the decoder and the file."""
        self._stream.close()

    @property
    def name(self) -> str:
        """The path or URL, for messages."""
        return self._stream.name

    @property
    def num_frames(self) -> int:
        """Frames that can be shown, exactly."""
        return self._stream.index.num_frames

    @property
    def frames_decoded(self) -> int:
        """How many frames the decoder has made so far: what reading has cost."""
        return self._stream.frames_decoded

    @property
    def fps(self) -> float:
        """Mean frames a second; 0 where the file does not say."""
        interval = self._stream.index.mean_interval
        stream = self._stream.stream
        return 1.0 / interval if interval > 0 else float(stream.average_rate or stream.guessed_rate or 0)

    @property
    def constant_rate(self) -> bool:
        """Whether frames are evenly spaced in time; if not, sample by `timestamps`."""
        return self._stream.index.constant_rate

    @property
    def info(self) -> VideoInfo:
        """What this video is; decodes its first frame."""
        if self._info is None:
            frame = self._first_frame()
            turn = Orientation.of(frame)
            width, height = turn.displayed(frame.width, frame.height)
            seconds = self.num_frames / self.fps if self.fps else 0.0
            known = (
                seconds,
                self._stream.stream.codec_context.codec.canonical_name,
                frame.format.name,
                self.constant_rate,
            )
            self._info = VideoInfo(self.num_frames, self.fps, width, height, turn.degrees, *known)
        return self._info

    def read(
        self, indices: Sequence[int] | np.ndarray, short_side: int | None = None
    ) -> UInt8[Tensor, "T C H W"]:
        """The frames numbered `indices`, in that order (repeats allowed): uint8 RGB [T, C, H, W], channels
        last in memory.

        `short_side` scales while converting, so that the shorter side has that many pixels. DecodeError for a
        frame that is not there, and where the file is broken before the last wanted frame.
        """
        asked = np.asarray(indices, dtype=np.int64)
        wanted, places = np.unique(asked, return_inverse=True)
        pictures = np.stack(self.collect(wanted, lambda picture: picture, short_side))
        in_order = len(wanted) == len(asked) and bool((asked == wanted).all())
        return from_numpy(pictures if in_order else pictures[places]).permute(0, 3, 1, 2)

    def collect(
        self,
        wanted: Int64[np.ndarray, "M"],
        keep: Callable[[UInt8[np.ndarray, "H W C"]], Kept],
        short_side: int | None = None,
        at_most: bool = False,
    ) -> list[Kept]:
        """What `keep` makes of each of the frames numbered `wanted` (ascending, none twice), one at a time as
        they come.

        `keep` gets the picture as `read` would give it and may be called again for a frame; with `at_most`, a
        picture whose shorter side is below `short_side` stays as it is. DecodeError as for `read`.
        """
        if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= self.num_frames:
            shown = f"frames {wanted[0]} to {wanted[-1]} were" if len(wanted) else "no frame was"
            raise DecodeError(self.name, f"{shown} asked for; it has {self.num_frames}, numbered from 0")
        self._size = None
        try:
            return self._collect(
                wanted.tolist(), lambda frame: keep(self._picture(frame, short_side, at_most))
            )
        except MistimedError:
            self._stream.count()
            return self.collect(wanted, keep, short_side, at_most)

    def verify(self) -> int:
        """Decode every frame without converting any; the number of frames. DecodeError at the first fault."""
        self._stream.wanted.all()
        try:
            for _ in self._stream.frames(0):
                pass
        except MistimedError:
            self._stream.count()
        self._stream.check_length()
        return self.num_frames

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """Seconds from the first frame to each frame: from the packets, or from the rate where they do not
        say.
        """
        if self._stream.index.known_by != "counting":
            shown = [p.pts for p in self._stream.packets() if frame_index.shows(p, self._stream.stream)]
            if None not in shown and len(shown) >= self.num_frames:
                times = np.sort(np.array(shown, dtype=np.int64))[len(shown) - self.num_frames :]
                return (times - times[0]) * float(self._stream.stream.time_base)
        return np.arange(self.num_frames) / (self.fps or 1.0)

    def _first_frame(self) -> Any:
        self._stream.wanted.all()
        try:
            frame = next((frame for _, frame in self._stream.frames(0)), None)
        except MistimedError:
            self._stream.count()
            frame = next((frame for _, frame in self._stream.frames(0)), None)
        if frame is None:
            raise DecodeError(self.name, "holds no frame that can be decoded")
        return frame

    def _collect(self, wanted: list[int], keep: Callable[[Any], Kept]) -> list[Kept]:
        kept: list[Kept] = []
        self._stream.want(wanted)
        group, patient_for = self._stream.index.group_of(wanted[0]), -1
        tried: set[tuple[int, int, int, bool]] = set()
        while len(kept) < len(wanted):
            if (attempt := (group, len(kept), patient_for, self._stream.wanted.sparing)) in tried:
                raise MistimedError  # the index leads in circles
            tried.add(attempt)
            leads = self._collect_from(group, wanted, keep, kept, patient_for)
            if leads:
                group, patient_for = group - 1, len(kept)
            elif len(kept) < len(wanted):
                group = self._stream.index.group_of(wanted[len(kept)])
        return kept

    def _collect_from(
        self, group: int, wanted: list[int], keep: Callable[[Any], Kept], kept: list[Kept], patient_for: int
    ) -> bool:
        """Keep frames until all are there, or a seek is cheaper. True: the next one leads its group; start a
        group earlier.

        No seek is tried before frame `patient_for` is there: it leads its group and needs the group before.
        """
        held: Any = None
        stream = self._stream
        stream.wanted.pass_on(len(kept))
        for number, frame in stream.frames(group):
            if held is None and number > wanted[len(kept)] and group > 0:
                return True
            while len(kept) < len(wanted) and wanted[len(kept)] <= number:
                # a frame the decoder did not show leaves the one before on the screen
                if wanted[len(kept)] < number and held is not None and stream.wanted.stop_sparing():
                    return False
                kept.append(keep(frame if held is None or wanted[len(kept)] == number else held))
            if len(kept) == len(wanted):
                return False
            held = frame
            stream.wanted.pass_on(len(kept))
            if len(kept) != patient_for and stream.seek_pays(wanted[len(kept)]):
                return False
        if held is None and group == 0:
            raise DecodeError(self.name, "holds no frame that can be decoded")
        if held is not None and not stream.wanted.stop_sparing():
            kept.extend(keep(held) for _ in wanted[len(kept) :])
        return held is None

    def _picture(self, frame: Any, short_side: int | None, at_most: bool) -> UInt8[np.ndarray, "H W C"]:
        turn = Orientation.of(frame)
        if self._size is None:  # a stream that changes its size midway keeps the first
            size = frame.width, frame.height
            if short_side is not None and not (at_most and min(size) <= short_side):
                size = scaled(*size, short_side)
            self._size = turn.displayed(*size)
        width, height = turn.displayed(*self._size)
        rgb = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)[
            :height, : width * 3
        ]
        return turn.upright(rows.reshape(height, width, 3))


def scaled(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height of the same shape whose shorter side is `short_side`; the longer rounds down, as
    released.
    """
    if width <= height:
        return short_side, int(height * short_side / width)
    return int(width * short_side / height), short_side
