"""Frames of a video file by number: exact, upright, RGB, at the price of a seek. Built on PyAV."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, from_numpy

from videomae2.data.video.frame_index import MistimedError
from videomae2.data.video.opening import (
    Converter,
    DecodeError,
    Orientation,
    VideoSource,
    plain,
    provoked_by,
)
from videomae2.data.video.stream import FrameStream
from videomae2.data.video.transport import Patience

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class VideoInfo:
    """What a video is: width and height as displayed (after `rotation`, degrees clockwise).

    `fps` are frames a second, `duration` seconds.
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


def probe(source: VideoSource) -> VideoInfo:
    """What a video is, at the price of its first frame. DecodeError where it cannot be read."""
    with VideoFile(source) as video:
        return video.info


def open_video(source: VideoSource, threads: int = 1, patience: Patience | None = None) -> "VideoFile":
    """Open a path, a URL that fsspec knows, or a binary file that can seek."""
    return VideoFile(source, threads, patience)


class VideoFile:
    """An open video: `num_frames`, `fps`, `read(indices)`. Use as a context manager.

    `source` is a path, a URL that fsspec knows, or a binary file that can seek. One decoding thread unless
    told, because a loader runs one process for each core. Memory does not grow with the length of the video.
    `patience` says how long reading may take and how often a server that fails is asked again; by default
    forever, and never. DecodeError where the video cannot be read.
    """

    def __init__(self, source: VideoSource, threads: int = 1, patience: Patience | None = None) -> None:
        self._stream = FrameStream(source, threads, patience)
        self._convert = Converter()
        self._info: VideoInfo | None = None

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
    def picture_size(self) -> tuple[int, int]:
        """(height, width) of the pictures read last, as displayed, before any scaling; (0, 0) before."""
        return self._convert.source

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
            with provoked_by(self.name):
                turn = Orientation.of(frame)
            width, height = turn.displayed(frame.width, frame.height)
            self._info = VideoInfo(
                num_frames=self.num_frames,
                fps=self.fps,
                width=width,
                height=height,
                rotation=turn.degrees,
                duration=self.num_frames / self.fps if self.fps else 0.0,
                codec=self._stream.stream.codec_context.codec.canonical_name,
                pixel_format=frame.format.name,
                constant_rate=self.constant_rate,
            )
        return self._info

    def read(
        self, indices: Sequence[int] | np.ndarray, short_side: int | None = None
    ) -> UInt8[Tensor, "T C H W"]:
        """The frames numbered `indices`, in that order (repeats allowed): uint8 RGB [T, C, H, W].

        Channels lie last in memory, as FFmpeg makes them. `short_side` scales while converting, so that the
        shorter side has that many pixels. DecodeError for a frame that is not there, and where the file is
        broken before the last wanted frame.
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
        """What `keep` makes of each frame numbered in `wanted` (ascending, none twice), one at a time.

        `keep` gets the picture as `read` would give it and may be called again for a frame; with `at_most`, a
        picture whose shorter side is below `short_side` is not enlarged. DecodeError as for `read`.
        """
        if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= self.num_frames:
            got = f"{wanted[0]} to {wanted[-1]}" if len(wanted) else "none"
            raise DecodeError(self.name, f"expected frames from 0 to {self.num_frames - 1}, got {got}")
        convert = self._convert = Converter(short_side, at_most)
        try:
            return self._collect(wanted.tolist(), lambda frame: keep(self._picture(convert, frame)))
        except MistimedError:
            self._stream.count()
            return self.collect(wanted, keep, short_side, at_most)

    def pictures(
        self, shown: Callable[[int], bool] = lambda _: True
    ) -> Iterator[tuple[int, UInt8[np.ndarray, "H W C"] | None]]:
        """Every frame with its number, in order: as `read` gives it, decoded once, one in memory at a time.

        Frames that are not `shown` come as None and are not made RGB. DecodeError as for `read`.
        """
        convert = self._convert = Converter()
        done = 0
        while done < self.num_frames:
            try:
                for frame in self._in_order(done):
                    yield done, self._picture(convert, frame) if shown(done) else None
                    done += 1
            except MistimedError:  # from here on by counting; what was given stays right
                self._stream.count()

    def _in_order(self, first: int) -> Iterator[Any]:
        """Frames from number `first` on; one that the decoder did not show is the one before."""
        self._stream.wanted.all()
        held: Any = None
        for number, frame in self._stream.frames(0):
            while first <= number:
                yield frame if held is None or first == number else held
                first += 1
            held = frame
        if held is None:
            raise DecodeError(self.name, "holds no frame that can be decoded")
        while first < self.num_frames:
            yield held
            first += 1

    def walk(self, wants: Callable[[int], bool]) -> Iterator[tuple[int, UInt8[np.ndarray, "H W C"]]]:
        """(number, picture) of each frame that `wants` says yes to, in order, from one pass over the file.

        `wants` is asked once for every frame, in ascending order. For long videos: nothing is kept.
        """
        convert = self._convert = Converter()
        done = -1
        while True:
            self._stream.wanted.all()
            try:
                for number, frame in self._stream.frames(0):
                    if number > done:
                        done = number
                        if wants(number):
                            yield number, self._picture(convert, frame)
                return
            except MistimedError:  # counted by decoding from here on; what was given is not given again
                self._stream.count()

    def verify(self) -> int:
        """Decode every frame; the number of frames. DecodeError at the first fault.

        Those whose size or pixel format is new are also made RGB, as reading would.
        """
        self._stream.wanted.all()
        kinds: set[tuple[str, int, int]] = set()
        try:
            for _, frame in self._stream.frames(0):
                kind = frame.format.name, frame.width, frame.height
                if kind not in kinds:
                    kinds.add(kind)
                    self._picture(Converter(), frame)
        except MistimedError:
            self._stream.count()
        self._stream.check_length()
        return self.num_frames

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """Seconds from the first frame to each: from the packets, or from the rate where they do not say."""
        index = self._stream.index
        if index.known_by != "counting":
            shown = [p.pts for p in self._stream.packets() if index.shows(p, self._stream.stream)]
            if None not in shown and len(shown) >= self.num_frames:
                times = np.sort(np.array(shown, dtype=np.int64))[len(shown) - self.num_frames :]
                return np.asarray((times - times[0]) * float(self._stream.stream.time_base))
        return np.arange(self.num_frames) / (self.fps or 1.0)

    def _picture(self, convert: Converter, frame: Any) -> UInt8[np.ndarray, "H W C"]:
        try:
            return convert(frame)
        except Exception as error:  # whatever it is, the file has provoked it
            raise DecodeError(self.name, f"its pictures cannot be used: {plain(error)}") from None

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
        # The frame that leads a group in time may come before the group's key frame and refer to the group
        # before (an open group of pictures): then decoding starts a group earlier, and waits for that frame.
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
        """Keep frames until all are there, or a seek is cheaper; True where a group earlier must be tried.

        No seek is tried before the wanted frame of place `patient_for` is there: it needs the group before.
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
