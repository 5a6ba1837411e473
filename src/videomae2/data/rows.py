"""From a manifest row to its pictures: a video or a folder of frames, each wanted frame decoded just once."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from videomae2.bounds import shown
from videomae2.data import sampling
from videomae2.data.file_names import shown_path
from videomae2.data.tables.manifest import Manifest, Row
from videomae2.data.video.decode import Kept, VideoFile, open_video
from videomae2.data.video.opening import UNREADABLE, DecodeError, plain, why_unreadable
from videomae2.data.video.transport import Patience, is_there, too_long, transport_fault
from videomae2.records import Failure
from videomae2.settings import DataSettings

_PATTERN = re.compile(r"(?:[^{}]|\{\{|\}\})*\{0?(?::0?[0-9]{0,2}d?)?\}(?:[^{}]|\{\{|\}\})*")
"""One number in a name, as `str.format` writes it."""
TOGETHER_BYTES = 16 << 20
"""Pictures of one row up to this size are resized in one call, which costs less than a call for each."""


class FrameFolder:
    """Pictures of a folder named by `pattern` ("img_{:05}.jpg"), without gaps; same use as VideoFile.

    Frames are numbered as the pattern numbers them, from `start` to before `end`, as released lists do; a
    start of 0 where there is no picture 0 makes picture 1 frame 0. Without `end` the last picture is found by
    bisection, so that a folder of a million is never listed. `fps` is 0: pictures have no rate. DecodeError
    where the first is missing, or one is unreadable.
    """

    fps = 0.0
    constant_rate = True

    def __init__(
        self, folder: str, pattern: str, start: int = 0, end: int = -1, patience: Patience | None = None
    ) -> None:
        self.name, self.pattern, self.frames_decoded, self._shift = folder, pattern, 0, 0
        self.picture_size = (0, 0)
        self._patience = patience or Patience()
        # Without a number every name would be that of the one picture, and the last were never found.
        if not _PATTERN.fullmatch(pattern):
            raise DecodeError(folder, f"expected a frame pattern like img_{{:05}}.jpg, got {shown(pattern)}")
        if start == 0 and not self._exists(0):
            self._shift = 1
        if not self._exists(start):
            raise DecodeError(folder, f"holds no frame {pattern.format(start + self._shift)}")
        self.num_frames = end if end > 0 else self._end(start)

    def __enter__(self) -> "FrameFolder":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is kept open between pictures."""

    def read(
        self, indices: Sequence[int] | np.ndarray, short_side: int | None = None
    ) -> UInt8[Tensor, "T C H W"]:
        """The pictures numbered `indices`, in that order: uint8 RGB [T, C, H, W], all of the first's size."""
        wanted, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        pictures = self.collect(
            wanted, lambda picture: torch.from_numpy(picture.copy()).permute(2, 0, 1), short_side
        )
        return torch.stack(pictures)[torch.from_numpy(places)]

    def collect(
        self,
        wanted: Int64[np.ndarray, "M"],
        keep: Callable[[UInt8[np.ndarray, "H W C"]], Kept],
        short_side: int | None = None,
        at_most: bool = False,
    ) -> list[Kept]:
        """What `keep` makes of each picture numbered in `wanted` (ascending, none twice), as for a video."""
        if len(wanted) == 0 or wanted[0] < 0 or wanted[-1] >= self.num_frames:
            raise DecodeError(
                self.name,
                f"expected frames from 0 to {self.num_frames - 1}, got {wanted.tolist()[:3]} ...",
            )
        kept: list[Kept] = []
        first: tuple[int, ...] = ()
        for number in wanted.tolist():
            self._patience.check()
            with open_video(self._path(number), patience=self._patience) as video:
                zero = np.zeros(1, dtype=np.int64)
                picture = video.collect(zero, lambda picture: picture, short_side, at_most)[0]
                self.frames_decoded += video.frames_decoded
            if not first:
                first, self.picture_size = picture.shape, video.picture_size
            # A video has one size throughout; a clip that is stacked later needs the same of a folder.
            if picture.shape != first:
                sizes = [f"{shape[0]} x {shape[1]}" for shape in (first, picture.shape)]
                raise DecodeError(
                    self._path(number),
                    f"expected {sizes[0]} pixels, as the first picture has, got {sizes[1]}",
                )
            kept.append(keep(picture))
        return kept

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """Pictures have no time; each counts as one second."""
        return np.arange(self.num_frames, dtype=np.float64)

    def _path(self, number: int) -> str:
        return str(Path(self.name) / self.pattern.format(number + self._shift))

    def _exists(self, number: int) -> bool:
        return is_there(self._path(number))  # a mount that fails does not cut the folder short

    def _end(self, start: int) -> int:
        """One more than the last number there is, supposing no gaps."""
        # Doubled until too far, then halved: thirty looks at the disk for a thousand million pictures.
        step = 1
        while self._exists(start + step):
            step *= 2
        below, above = start + step // 2, start + step
        while above - below > 1:
            middle = (above + below) // 2
            below, above = (middle, above) if self._exists(middle) else (below, middle)
        return above


def open_row(row: Row, threads: int = 1, patience: Patience | None = None) -> VideoFile | FrameFolder:
    """Open what a manifest row names: a folder of frames where it has a pattern, else a video.

    Frames are numbered as `row.start` numbers them.
    """
    if row.pattern:
        return FrameFolder(row.path, row.pattern, row.start, row.end, patience)
    return open_video(row.path, threads, patience)


@dataclass(frozen=True)
class Pictures:
    """What was made of a row's wanted frames.

    `parts` holds, by part and frame, [1, C, h, w], each wanted frame once; `places` [T] says which of them
    each place of the clip shows; `source` is (height, width) of the stored pictures as displayed.
    """

    parts: list[list[Tensor]]
    places: Tensor
    source: tuple[int, int]


def read_pictures(
    manifest: Manifest,
    number: int,
    data: DataSettings,
    draw: Callable[[int, int], np.ndarray],
    shrink: Callable[[Tensor], list[Tensor]],
    *,
    short_side_at_most: int | None = None,
) -> Pictures | Failure:
    """The parts that `shrink` makes of the frames [N, C, H, W] that `draw(count, stride)` picks from a row.

    The row is opened once, and again where the way to it fails (`data.retries`); a row that takes longer than
    `data.max_seconds` is a failure. Frames with a short side above `short_side_at_most` are scaled to it
    while they become RGB, for a tenth of what a resize of the RGB costs.
    """
    row, patience = manifest.row(number), Patience(data.max_seconds, data.retries)
    drawn = lru_cache(maxsize=1)(draw)  # tried again, a row shows the same frames

    def read() -> Pictures:
        with open_row(row, patience=patience) as video:
            first, last = row.start, video.num_frames if row.end < 0 else min(row.end, video.num_frames)
            if first >= last:
                raise DecodeError(
                    row.path, f"the row begins at frame {row.start}, but there are {video.num_frames}"
                )
            stride = row.stride or data.stride
            centred = row.key_time >= 0 or row.key_frame >= 0
            if data.target_fps > 0 or centred:
                by_time = data.target_fps > 0
                ticks = _ticks(video, first, last, data.target_fps) if by_time else np.arange(first, last)
                if centred:
                    # Samplers know frames and no moments: for them the moment becomes the middle.
                    ticks = ticks[sampling.centred(len(ticks), _place_of(row, video, ticks, last - 1))]
                indices = ticks[drawn(len(ticks), stride)]
            else:
                indices = first + drawn(last - first, stride)
            # Short videos and several test clips show frames twice; each is decoded and shrunk once.
            wanted, places = np.unique(indices, return_inverse=True)
            parts = _shrunk(video, wanted, shrink, short_side_at_most)
            return Pictures(parts, torch.from_numpy(places), video.picture_size)

    try:
        return patience.bounded(lambda: patience.keep(read, row.path))
    except UNREADABLE as error:
        failure = failure_of(number, row.path, error, patience)
        # Rows that were made from another file say from which line of it.
        columns = manifest.table.column_names
        place = f" ({manifest.table.column('listed_at')[number].as_py()})" if "listed_at" in columns else ""
        return replace(failure, reason=f"{failure.reason}{place}")


def failure_of(number: int, path: str, error: Exception, patience: Patience) -> Failure:
    """The record of a row that could not be read: whether the video, the way to it or its length was it."""
    name = shown_path(path)
    if (late := too_long(error)) is not None:
        return Failure(number, name, str(late), "time")
    if (fault := transport_fault(error, path)) is not None:
        tries = f"{patience.tries} tries" if patience.tries > 1 else "1 try"
        reason = f"could not be reached in {tries}: {type(fault).__name__}: {plain(fault)}"
        return Failure(number, name, reason, "transport")
    return Failure(number, name, why_unreadable(error))


def _place_of(row: Row, video: VideoFile | FrameFolder, ticks: sampling.Ticks, last: int) -> int:
    """Which tick shows a row's key frame; DecodeError where that is after `last`, or before the stretch."""
    if row.key_time < 0:
        key, moment = row.key_frame, f"the key frame {row.key_frame}"
    else:
        if video.fps <= 0:
            raise DecodeError(
                video.name, f"says no frame rate, so no frame is at {row.key_time:g} s; give frame numbers"
            )
        moment = f"the key time {row.key_time:g} s"
        if video.constant_rate:
            key = int(row.key_time * video.fps + 0.5)
        else:
            key = int(np.searchsorted(video.timestamps(), row.key_time + 1e-6, side="right")) - 1
            key += row.key_time > video.num_frames / video.fps  # after the last frame has gone
    # The end itself counts: people annotate the last second of a video as the moment when it ends.
    if key == last + 1:
        key = last
    if not ticks[0] <= key <= last:
        seconds = f", {(last + 1) / video.fps:g} s" if video.fps > 0 else ""
        raise DecodeError(video.name, f"{moment} is beyond its {last + 1} frames{seconds}")
    place = int(np.searchsorted(ticks, key))
    # Where the clock has no tick at the key frame itself, the frame of the tick before is still on show.
    return place if place < len(ticks) and ticks[place] == key else place - 1


def _shrunk(
    video: VideoFile | FrameFolder,
    wanted: np.ndarray,
    shrink: Callable[[Tensor], list[Tensor]],
    bound: int | None,
) -> list[list[Tensor]]:
    """By part and frame: few small pictures are shrunk together, large ones each as it comes.

    A large picture is shrunk while the processor's cache still holds it, and never lies in memory beside all
    the others.
    """

    def keep(picture: UInt8[np.ndarray, "H W C"]) -> np.ndarray | list[Tensor]:
        together = len(wanted) * picture.nbytes <= TOGETHER_BYTES
        return picture if together else shrink(_channels_first(picture[None]))

    kept = video.collect(wanted, keep, bound, at_most=True)
    pictures = [each for each in kept if isinstance(each, np.ndarray)]
    if pictures:
        return [list(part.split(1)) for part in shrink(_channels_first(np.stack(pictures)))]
    return [list(part) for part in zip(*kept, strict=True)]


def _channels_first(pictures: UInt8[np.ndarray, "N H W C"]) -> UInt8[Tensor, "N C H W"]:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


def _ticks(video: VideoFile | FrameFolder, first: int, last: int, target_fps: float) -> sampling.Ticks:
    """Frames on show at each tick of `target_fps` within a stretch; by timestamps where the rate varies."""
    if video.constant_rate and video.fps <= 0:
        raise DecodeError(
            video.name, "says no frame rate, so its frames cannot be taken by time; set data.target_fps 0"
        )
    if video.constant_rate:
        return first + sampling.by_time(last - first, video.fps, target_fps)
    return first + sampling.by_timestamps(video.timestamps()[first:last], target_fps)
