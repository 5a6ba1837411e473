"""Packets of a stream before they are decoded: which frame each will show, and whether a reader needs it."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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
