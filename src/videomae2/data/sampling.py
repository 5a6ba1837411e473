"""Which frames a clip takes: pure functions from a count of frames to frame numbers, and samplers of them.

Every number is relative to the row's own first frame. Where a function draws, it takes the generator; each is
equal to the released code (VideoMAE V2 at 29eab1e) unless its docstring says where and why not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64

from videomae2.errors import UserError

Indices = Int64[np.ndarray, "T"]
Views = Int64[np.ndarray, "clips T"]
Ticks = Int64[np.ndarray, "M"]
"""The frame on show at each tick of a clock."""


Sampler = Callable[[int, int, np.random.Generator], Indices]
"""What draws a training clip's frames: (frames there are, stride, generator) -> [T]."""


@runtime_checkable
class ViewSampler(Protocol):
    """What an evaluation's views are taken by: `length` frames in each of several clips, nothing drawn."""

    @property
    def length(self) -> int:
        """T, frames of one clip."""

    def views(self, num_frames: int, stride: int, clips: int) -> Views:
        """The frames of each of `clips` clips."""


@dataclass(frozen=True)
class RandomWindow:
    """A sampler of pre-training: `pretrain_indices`."""

    length: int

    def __call__(self, num_frames: int, stride: int, rng: np.random.Generator) -> Indices:
        """`length` frames, `stride` apart, from a random start."""
        return pretrain_indices(num_frames, self.length, stride, generator=rng)


@dataclass(frozen=True)
class Dense:
    """A sampler of fine-tuning and its views: `dense_train`, `dense_val` for one clip, `dense_test_views`."""

    length: int

    def __call__(self, num_frames: int, stride: int, rng: np.random.Generator) -> Indices:
        """`length` frames spread over a random window."""
        return dense_train(num_frames, self.length, stride, generator=rng)

    def views(self, num_frames: int, stride: int, clips: int) -> Views:
        """One clip is the central window (released validation), several are the released test views."""
        if clips == 1:
            return dense_val(num_frames, self.length, stride)[None]
        return dense_test_views(num_frames, self.length, stride, clips)


@dataclass(frozen=True)
class Segments:
    """A sampler of frames from the whole video: `segments_train`, `segments_val`, `segments_test_views`."""

    length: int

    def __call__(self, num_frames: int, stride: int, rng: np.random.Generator) -> Indices:  # noqa: ARG002
        """One random frame from each of `length` equal parts; the stride plays no part."""
        return segments_train(num_frames, self.length, generator=rng)

    def views(self, num_frames: int, stride: int, clips: int) -> Views:  # noqa: ARG002
        """One clip holds the middle frames (released validation), several are the released test views."""
        if clips == 1:
            return segments_val(num_frames, self.length)[None]
        return segments_test_views(num_frames, self.length, clips)


@dataclass(frozen=True)
class KeyFrames:
    """A sampler of spatial detection: `around` the middle, which is the key frame of a row that has one."""

    length: int

    def __call__(self, num_frames: int, stride: int, rng: np.random.Generator) -> Indices:  # noqa: ARG002
        """The same in training: what happens at the key frame must be in the middle."""
        return around(num_frames, self.length, stride)

    def views(self, num_frames: int, stride: int, clips: int) -> Views:
        """Every clip is the one about the key frame."""
        return np.repeat(around(num_frames, self.length, stride)[None], clips, axis=0)


SAMPLERS: dict[str, type[Dense] | type[Segments] | type[KeyFrames]] = {
    "dense": Dense,
    "segments": Segments,
    "key": KeyFrames,
}
"""By the value of `data.sampling`."""


def pretrain_indices(
    num_frames: int,
    length: int = 16,
    stride: int = 4,
    *,
    generator: np.random.Generator | None = None,
    start: int | None = None,
) -> Indices:
    """A window of `length` frames, `stride` apart, from `start` or a uniform random start.

    Paper 4.1, and released. A video shorter than the window starts at 0 and repeats the last frame reached.
    As released, a step is taken only if it ends before the video's very last frame, so a short video never
    shows that one.
    """
    _check(num_frames, length, stride)
    if start is None:
        start = _uniform(generator, max(num_frames - length * stride, 0) + 1)
    elif not 0 <= start < num_frames:
        raise UserError(
            f"expected a window that starts at a frame from 0 to {num_frames - 1}, got start {start}"
        )
    reachable = max(num_frames - 2 - start, 0) // stride
    return start + stride * np.minimum(np.arange(length), reachable)


def dense_train(
    num_frames: int, length: int = 16, stride: int = 4, *, generator: np.random.Generator
) -> Indices:
    """`length` frames spread evenly over a random window of `length * stride` (released fine-tuning)."""
    _check(num_frames, length, stride)
    window = length * stride
    if num_frames <= window:
        return _short_window(num_frames, length, stride)
    return _window(_uniform(generator, num_frames - window), length, window)


def dense_val(num_frames: int, length: int = 16, stride: int = 4) -> Indices:
    """The central window of `dense_train` (released validation)."""
    _check(num_frames, length, stride)
    window = length * stride
    if num_frames <= window:
        return _short_window(num_frames, length, stride)
    return _window((window + num_frames) // 2 - window, length, window)


def dense_test_views(num_frames: int, length: int = 16, stride: int = 4, clips: int = 5) -> Views:
    """`clips` windows spread evenly from the first to the last over every `stride`-th frame (released test).

    One clip is the central window (the released code divides by zero). Too few frames: the last one repeats.
    """
    _check(num_frames, length, stride, clips)
    thinned = np.arange(0, num_frames, stride)
    thinned = np.pad(thinned, (0, max(length - len(thinned), 0)), mode="edge")
    starts = _spread(len(thinned) - length, clips)
    return thinned[starts[:, None] + np.arange(length)]


def segments_train(num_frames: int, length: int = 16, *, generator: np.random.Generator) -> Indices:
    """One random frame from each of `length` equal parts (TSN sampling, released).

    Fewer frames than parts: the parts are fractions of a frame, so frames repeat in order (released:
    unordered zeros).
    """
    _check(num_frames, length)
    part = num_frames // length
    if part == 0:
        return _fractional(num_frames, length, generator.random(length))
    return np.arange(length) * part + generator.integers(part, size=length)


def segments_val(num_frames: int, length: int = 16) -> Indices:
    """The middle frame of each of `length` equal parts.

    Released, where a video of fewer frames than parts gives frame -1; here its frames repeat.
    """
    _check(num_frames, length)
    part = num_frames // length
    if part == 0:
        return _fractional(num_frames, length, np.full(length, 0.5))
    return np.arange(length) * part + (part + 1) // 2 - 1


def segments_test_views(num_frames: int, length: int = 16, clips: int = 2) -> Views:
    """`clips` interleaved sets of `length` evenly spaced frames over the whole video (released test)."""
    _check(num_frames, length, 1, clips)
    tick = num_frames / float(length)
    offsets = np.arange(clips)[:, None] * tick / clips
    together = np.sort((offsets + tick * np.arange(length)).astype(np.int64), axis=None)
    return np.ascontiguousarray(together.reshape(length, clips).T)


def around(num_frames: int, length: int = 16, stride: int = 4) -> Indices:
    """`length` frames, `stride` apart, about the middle frame, which is number length / 2 of the clip.

    Released (V1's AVA code): a span of 64 frames about the key frame. Beyond the ends the last frame repeats.
    """
    _check(num_frames, length, stride)
    wanted = num_frames // 2 + (np.arange(length) - length // 2) * stride
    frames: Indices = np.clip(wanted, 0, num_frames - 1)
    return frames


def centred(count: int, key: int) -> Indices:
    """Frame numbers of a stretch of `count` frames, its ends repeated so that the middle is frame `key`."""
    reach = max(key, count - key)
    return np.clip(np.arange(key - reach, key + reach), 0, count - 1)


def by_time(num_frames: int, frames_per_second: float, target_fps: float) -> Ticks:
    """The frame on show at each tick of `target_fps`: a table to sample from as if it were the video.

    `by_time(300, 30.0, 12.0)[dense_val(120)]` is a clip at 12 frames a second. Use `by_timestamps` for
    variable frame rate.
    """
    _check(num_frames, 1)
    _check_rate(target_fps)
    if not frames_per_second > 0:
        raise UserError(
            f"expected a frame rate above 0 to sample by time, got {frames_per_second}; set data.target_fps 0"
        )
    # A millionth of slack: 300 frames at 29.97 a second end at a tick up to rounding, and must not gain one.
    count = max(int(np.ceil(num_frames / frames_per_second * target_fps - 1e-6)), 1)
    shown = np.floor(np.arange(count) * (frames_per_second / target_fps) + 1e-6)
    ticks: Ticks = np.minimum(shown, num_frames - 1).astype(np.int64)
    return ticks


def by_timestamps(seconds: Float[np.ndarray, "N"], target_fps: float) -> Ticks:
    """As `by_time`, from the time of each frame in seconds, ascending, where the rate varies.

    The frame on show is the last that has begun.
    """
    _check(len(seconds), 1)
    _check_rate(target_fps)
    since = seconds - seconds[0]
    # The last frame's own duration is in no timestamp: it is taken as the usual one.
    last = float(np.median(np.diff(since))) if len(since) > 1 else 0.0
    count = max(int(np.ceil((since[-1] + last) * target_fps - 1e-6)), 1)
    return np.searchsorted(since, np.arange(count) / target_fps + 1e-6, side="right").astype(np.int64) - 1


def crop_offsets(height: int, width: int, crops: int = 3) -> Int64[np.ndarray, "crops"]:
    """Where square crops of the short side begin: pixels from the top or left, spread over the long side.

    As released; one crop is the central one, where the released code divides by zero.
    """
    if crops < 1:
        raise UserError(f"expected at least 1 crop of a view, got {crops}")
    return _spread(max(height, width) - min(height, width), crops)


def _spread(room: int, count: int) -> Int64[np.ndarray, "count"]:
    if count == 1:
        return np.array([room // 2], dtype=np.int64)
    return (np.arange(count) * (room / (count - 1))).astype(np.int64)


def _window(start: int, length: int, window: int) -> Indices:
    # As released: spaced to one past the window's end and cut off there, so the last step may be shorter.
    spaced = np.linspace(start, start + window, num=length)
    return np.clip(spaced, start, start + window - 1).astype(np.int64)


def _short_window(num_frames: int, length: int, stride: int) -> Indices:
    # As released: the frames there are, then the last one repeated until the clip is full.
    spaced = np.linspace(0, num_frames, num=num_frames // stride)
    spaced = np.concatenate([spaced, np.full(length - len(spaced), num_frames, dtype=np.float64)])
    return np.clip(spaced, 0, num_frames - 1).astype(np.int64)


def _fractional(num_frames: int, length: int, within: Float[np.ndarray, "T"]) -> Indices:
    indices: Indices = ((np.arange(length) + within) * (num_frames / length)).astype(np.int64)
    return indices


def _uniform(generator: np.random.Generator | None, count: int) -> int:
    if generator is None:
        raise UserError("a random window needs a generator; pass generator=..., or start=... for a fixed one")
    return int(generator.integers(count))


def _check_rate(target_fps: float) -> None:
    if not target_fps > 0:
        raise UserError(f"expected a positive target_fps to sample by time, got {target_fps}; try 12")


def _check(num_frames: int, length: int, stride: int = 1, clips: int = 1) -> None:
    if num_frames < 1:
        raise UserError(f"expected a row of at least 1 frame to take a clip from, got {num_frames} frames")
    if min(length, stride, clips) < 1:
        raise UserError(f"expected length, stride and clips of at least 1, got {length}, {stride}, {clips}")
