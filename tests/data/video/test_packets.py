"""Frame numbers known before decoding: the rank of a packet's time, however far the codec reorders.

Faults come in their turn, and which frames may be left out depends on the codec.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from videomae2.data.video.frame_index import MistimedError, Wanted, numbered


@dataclass(frozen=True)
class Packet:
    pts: int | None
    shown: bool = True


def reordered(count: int, reach: int) -> list[Packet]:
    """Times in an order of decoding in which nobody is further than `reach` from its place."""
    places = np.arange(count) + np.random.default_rng(0).uniform(0, reach, count)
    return [Packet(100 * int(rank)) for rank in np.argsort(places)]


def numbers(packets: Sequence[Packet | None], first: int = 0) -> list[int]:
    return [number for _, number in numbered(packets, first, lambda packet: packet.shown, (ValueError,))]


@pytest.mark.parametrize("reach", [1, 4, 16, 30])
def test_a_number_is_the_rank_of_a_time(reach: int) -> None:
    packets = reordered(1000, reach)
    times = [packet.pts for packet in packets if packet.pts is not None]
    assert numbers(packets, 7) == [7 + time // 100 for time in times]


def test_packets_that_show_nothing_have_no_number() -> None:
    assert numbers([Packet(0), Packet(50, shown=False), Packet(200), Packet(100), None]) == [0, -1, 2, 1, -1]


def test_a_packet_without_a_time_cannot_be_numbered() -> None:
    with pytest.raises(MistimedError):
        numbers([Packet(0), Packet(None)])


def test_a_fault_ahead_waits_for_the_packets_before_it() -> None:
    def broken() -> Iterator[Packet]:
        yield from (Packet(0), Packet(200), Packet(100))
        raise ValueError("cut off")

    ahead = numbered(broken(), 0, lambda packet: packet.shown, (ValueError,))
    assert [next(ahead)[1] for _ in range(3)] == [0, 2, 1]
    with pytest.raises(ValueError, match="cut off"):
        next(ahead)


def test_what_may_be_left_out_depends_on_the_codec() -> None:
    def spared(codec: str, seekable: bool = True) -> list[int]:
        wanted = Wanted()
        assert not any(wanted.may_spare(number, number) for number in range(200)), (
            "everything matters at first"
        )
        wanted.only([100, 104], codec, seekable)
        return [number for number in range(110) if wanted.may_spare(number if wanted.sparing else -1, number)]

    assert spared("h264") == [number for number in range(110) if number not in (100, 104)]
    assert spared("hevc") == list(range(60)), "what is not far away may still be referred to"
    assert spared("av1") == [] and spared("h264", seekable=False) == []
    wanted = Wanted()
    wanted.only([100], "h264", True)
    assert not wanted.may_spare(-1, 3), "a frame of unknown number"
    assert wanted.stop_sparing() and not wanted.stop_sparing()
    assert wanted.may_spare(-1, 59) and not wanted.may_spare(-1, 60)
