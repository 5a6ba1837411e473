"""Packets of a stream with the number of the frame that each will show, known before any of them is
decoded.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

REORDER = 40
"""No decoder shows a frame further than this from its place in order of decoding (H.264 and HEVC allow
16).
"""


class MistimedError(Exception):
    """The times of frames contradict those of packets: frames must be counted instead."""


def numbered(
    packets: Iterable[Any], first: int, shows: Callable[[Any], bool], faults: tuple[type[Exception], ...]
) -> Iterator[tuple[Any, int]]:
    """(packet, number of its frame in order of presentation), in order of decoding; -1 for a packet that
    shows none.

    `packets` begin at a key packet with `first` frames before it, and end with None, which is handed on. A
    number is a rank among times of presentation, so it is known once packets have been read `REORDER` ahead.
    A fault in reading ahead is raised only after all packets before it.
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
            yield (
                packet,
                first + bisect_left(times, packet.pts) if packet is not None and shows(packet) else -1,
            )
        if len(times) > 4 * REORDER:  # the earliest lie before all that can still come
            del times[:REORDER]
            first += REORDER
    if fault is not None:
        raise fault
