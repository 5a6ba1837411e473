"""Where the key frames of a video are and how many frames come before each: what exact seeking needs.

A frame's number is its place in order of presentation. Three ways to know it, cheapest first: the container's
own index (mp4, mov, avi: a complete list of samples, read at opening), one pass over the packets without
decoding (mkv, webm, gif, mpeg), or, where packets do not say when they are shown (avi with B-frames),
decoding once.
"""

from array import array
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

INDEXED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")
"""Formats whose own index is a complete list of samples; others list key frames only, or nothing."""
_WALKED = 20_000
"""Up to this many samples, ten minutes, each is asked whether it is hidden; it takes some milliseconds."""
_CACHE_SIZE = 1024
_cache: "OrderedDict[tuple[str | int, ...], FrameIndex]" = OrderedDict()
"""A pass over all packets costs a read of the file, so it is made once while the file is unchanged."""


@dataclass(frozen=True)
class FrameIndex:
    """Key frames of one video stream: [G] times to seek to, [G] counts of frames decoded before each.

    `known_by`: container (times are decoding times), packets (times are presentation times) or counting (no
    seeking).
    """

    num_frames: int
    known_by: Literal["container", "packets", "counting"]
    key_times: Int64[np.ndarray, "G"]
    key_numbers: Int64[np.ndarray, "G"]
    constant_rate: bool = True
    mean_interval: float = 0.0
    """Seconds between frames as the packets say; 0 where nobody looked."""
    longest_interval: float = 0.0
    seek_shift: int = 0
    """Added to a key time to seek to it.

    FFmpeg's mov takes a time of presentation but searches its index by times of decoding.
    """

    lost: frozenset[int] = frozenset()
    """Times of packets before the first key frame in time: they refer to what a cut has removed."""

    def shows(self, packet: Any, stream: Any) -> bool:
        """Whether a packet brings a picture to the screen that the decoder can make."""
        return shows(packet, stream) and packet.pts not in self.lost

    def without(self, lost: frozenset[int]) -> "FrameIndex":
        """The index of a video whose frames at these times cannot be shown."""
        later = np.arange(len(self.key_numbers)) > 0
        return replace(
            self,
            num_frames=self.num_frames - len(lost),
            key_numbers=self.key_numbers - len(lost) * later,
            lost=frozenset(lost),
        )

    def group_of(self, number: int) -> int:
        """The last group of pictures that begins at or before frame `number` in order of decoding."""
        return max(int(np.searchsorted(self.key_numbers, number, side="right")) - 1, 0)

    def stamp(self, packet: Any) -> int | None:
        """The time by which a key packet is found again after a seek."""
        time: int | None = packet.dts if self.known_by == "container" else packet.pts
        return time


def remembered(key: tuple[str | int, ...] | None) -> FrameIndex | None:
    """The index found earlier in this process for the same unchanged file."""
    if key is None or key not in _cache:
        return None
    _cache.move_to_end(key)
    return _cache[key]


def remember(key: tuple[str | int, ...] | None, index: FrameIndex) -> FrameIndex:
    """Keep an index for the next opening of the file; a bounded number is kept."""
    if key is not None:
        _cache[key] = index
        while len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    return index


def counted(num_frames: int) -> FrameIndex:
    """The index of a video whose frames were counted by decoding them: one group, no seeking."""
    zero = np.zeros(1, dtype=np.int64)
    return FrameIndex(num_frames, "counting", zero, zero)


def from_container(container: Any, stream: Any) -> FrameIndex | None:
    """The index a complete container carries; None where it has none, or one that cannot be trusted."""
    entries = getattr(stream, "index_entries", None)
    if container.format.name not in INDEXED_FORMATS or not entries or len(entries) != stream.frames:
        return None
    # AVI says only the order of decoding, which with B-frames is not the order of presentation.
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        return None
    total = len(entries)
    if _is_trimmed(entries):
        listed = [(entry.timestamp, entry.is_keyframe, not entry.is_discard) for entry in entries]
        times, keys, shown = (np.array(column) for column in zip(*listed, strict=True))
        key_times, key_numbers = times[keys], (np.cumsum(shown) - shown)[keys]
        num_frames = int(shown.sum())
    else:
        positions = _key_positions(entries)
        key_times = np.array([entries[int(i)].timestamp for i in positions], dtype=np.int64)
        key_numbers, num_frames = positions, total
    if len(key_times) == 0 or (np.diff(key_times) <= 0).any():
        return None  # times that repeat or go back cannot be sought by
    # Where intervals vary, FFmpeg's mean rate and its guess of the base rate differ.
    rates = float(stream.average_rate or 0), float(stream.base_rate or 0)
    constant = rates[0] > 0 and abs(rates[1] / rates[0] - 1) < 0.01
    first = int(key_numbers[0])  # what comes before the first key frame cannot be decoded
    shift = max((stream.start_time or 0) - entries[0].timestamp, 0)
    key_numbers = key_numbers.astype(np.int64) - first
    return FrameIndex(
        num_frames - first, "container", key_times.astype(np.int64), key_numbers, constant, seek_shift=shift
    )


def from_packets(packets: Iterable[Any], container: Any, stream: Any) -> FrameIndex | None:
    """The index from all packets of a stream, undecoded; None where they do not say when they are shown."""
    if container.format.name == "avi":  # its packets carry order of decoding, not times
        return None
    times, key_times, key_numbers = array("q"), array("q"), array("q")
    for packet in packets:
        if not key_times and not packet.is_keyframe:
            continue
        if packet.pts is None:
            return None
        if packet.is_keyframe:
            key_times.append(packet.pts)
            key_numbers.append(len(times))
        if shows(packet, stream):
            times.append(packet.pts)
    shown, keys = np.unique(np.array(times, dtype=np.int64)), np.array(key_times, dtype=np.int64)
    if len(times) == 0 or len(shown) != len(times) or (np.diff(keys) <= 0).any():
        return None
    # Whether these can be shown only the decoder knows: who reads packets takes back those that can.
    leading = frozenset(shown[shown < keys[0]].tolist())
    constant, mean, longest = _rate(shown * float(stream.time_base), float(stream.time_base))
    numbers = np.array(key_numbers, dtype=np.int64)
    return FrameIndex(len(shown), "packets", keys, numbers, constant, mean, longest, lost=leading)


def shows(packet: Any, stream: Any) -> bool:
    """Whether a packet brings a picture to the screen.

    Not one that an edit list cuts off, nor a hidden reference of VP8.
    """
    if packet.is_discard:
        return False
    if stream.codec_context.codec.canonical_name != "vp8":
        return True
    return bool(memoryview(packet)[0] >> 4 & 1)  # VP8's show_frame bit (RFC 6386, 9.1)


def _is_trimmed(entries: Any) -> bool:
    """Whether an edit list hides samples.

    Entries lie in order of decoding, where the last frame to be shown may stand before B-frames that are
    shown earlier: so more than the outermost entries are asked. A short video is asked throughout, because
    editors also cut out the middle; of a long one that would cost more than its opening.
    """
    total = len(entries)
    ends = (range(REORDER), range(total - REORDER, total)) if total > _WALKED else (range(total),)
    return any(entries[place].is_discard for places in ends for place in places)


def _key_positions(entries: Any) -> Int64[np.ndarray, "G"]:
    """Positions of key frames, found by asking the index itself from the end backwards.

    So a long video is spared a walk in Python over all its samples.
    """
    found, time = [], entries[len(entries) - 1].timestamp
    while (position := entries.search_timestamp(time, backward=True, any_frame=False)) >= 0:
        found.append(position)
        time = entries[position].timestamp - 1
    return np.array(found[::-1], dtype=np.int64)


def _rate(seconds: np.ndarray, tick: float) -> tuple[bool, float, float]:
    """Whether frames are evenly spaced, up to rounding to ticks, and the mean and longest interval."""
    if len(seconds) < 2:
        return True, 0.0, 0.0
    interval = float((seconds[-1] - seconds[0]) / (len(seconds) - 1))
    even = seconds[0] + interval * np.arange(len(seconds))
    # Times are rounded to ticks of the container, which alone moves them by up to one.
    constant = bool(np.abs(seconds - even).max() <= max(1.5 * tick, 0.02 * interval))
    return constant, interval, float(np.diff(seconds).max())


REORDER = 40
"""No decoder shows a frame further than this from its place of decoding (H.264 and HEVC allow 16)."""

_PLAIN_REFERENCES = ("h264", "mpeg4", "mpeg2video", "mpeg1video")
"""Codecs in which what is marked as no reference is none.

HEVC's "sub-layer non-reference" may still serve higher layers, so a neighbour of a wanted frame cannot go.
"""
_FAR_REFERENCES = (*_PLAIN_REFERENCES, "hevc", "vp8", "vp9")
"""Codecs in which it serves no frame further than `REORDER` away.

AV1's decoder, told to leave out such frames, also leaves out frames that should be shown.
"""


class MistimedError(Exception):
    """The times of frames contradict those of packets: frames must be counted instead."""


def numbered(
    packets: Iterable[Any], first: int, shows: Callable[[Any], bool], faults: tuple[type[Exception], ...]
) -> Iterator[tuple[Any, int]]:
    """(packet, number of its frame in order of presentation), in order of decoding; -1 where it shows none.

    `packets` begin at a key packet with `first` frames before it, and end with None, which is handed on. A
    number is a rank among times of presentation, so it is known once packets have been read `REORDER` ahead.
    MistimedError for a packet without a time. A fault in reading ahead is raised only after all packets
    before it: a clip that ends before the broken part of a file can still be read.
    """
    coming: deque[Any] = deque()
    times: list[int] = []
    fault: Exception | None = None
    source: Iterator[Any] | None = iter(packets)
    while source is not None or coming:
        while source is not None and len(coming) <= REORDER:
            try:
                packet = next(source)
            except StopIteration:
                source = None
                break
            except faults as error:
                source, fault = None, error
                break
            coming.append(packet)
            if packet is not None and shows(packet):
                if packet.pts is None:
                    raise MistimedError
                insort(times, packet.pts)
        if coming:
            packet = coming.popleft()
            shown = packet is not None and shows(packet)
            yield packet, first + bisect_left(times, packet.pts) if shown else -1
        # Memory must not grow with the video: the earliest times lie before all that can still come.
        if len(times) > 4 * REORDER:
            del times[:REORDER]
            first += REORDER
    if fault is not None:
        raise fault


class Wanted:
    """The numbers of the frames that matter to a reader, ascending, and how many of them are done.

    Frames beside them need not be decoded where no other frame refers to them: that is most of the price of
    a strided clip. At first every frame matters. While `sparing`, any frame that is not wanted may be left
    out; otherwise only those well before the next wanted one may.
    """

    def __init__(self) -> None:
        self.all()

    def all(self) -> None:
        """Every frame matters from now on."""
        self._numbers, self._members, self._next = [0], frozenset({0}), 0
        self.sparing = self._far = False

    def only(self, numbers: list[int], codec: str, seekable: bool) -> None:
        """From now on only these frames matter. A stream that cannot be sought has no numbers to tell by."""
        self._numbers, self._members, self._next = numbers, frozenset(numbers), numbers[0]
        self.sparing = seekable and codec in _PLAIN_REFERENCES
        self._far = seekable and codec in _FAR_REFERENCES

    def pass_on(self, done: int) -> None:
        """`done` of the wanted frames are done."""
        self._next = self._numbers[done]

    def stop_sparing(self) -> bool:
        """Decode frames beside the wanted ones after all; whether that changes anything."""
        was, self.sparing = self.sparing, False
        return was

    def may_spare(self, number: int, num_sent: int) -> bool:
        """Whether the decoder may leave out the frame it gets next, if no other refers to it.

        `number` is its own (-1: it has none), `num_sent` its place in order of decoding.
        """
        if self.sparing:
            return number >= 0 and number not in self._members
        return self._far and num_sent + REORDER < self._next
