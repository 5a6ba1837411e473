"""Programs timed in turn, A B A B, each in a process of its own: a machine whose speed drifts tells the same
of all of them.
"""

import contextlib
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

PAIRS = 5
"""Counted turns of each program, after the ones that warm up."""

Call = Callable[[], dict[str, float]]
"""One turn; it may report parts of its time, counts or sizes by name."""


@dataclass(frozen=True)
class Turn:
    """One call: seconds on the clock, seconds of the process's threads on a core, and what the call
    reported.
    """

    wall: float
    cpu: float
    reported: dict[str, float]


class Program:
    """`make(*arguments)` is called once in a fresh process and gives the function that each turn calls
    there.
    """

    def __init__(self, make: Callable[..., Call], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        self._process.start()
        theirs.close()
        self.idle_bytes = self._answer()

    def turn(self) -> Turn:
        """Call it once."""
        answer: Turn = self._ask("turn")
        return answer

    def peak_bytes(self) -> int:
        """Most memory that the process has held so far."""
        return int(self._ask("peak"))

    def stop(self) -> None:
        """End the process."""
        self._ours.close()
        self._process.join()

    def _ask(self, what: str) -> Any:
        with contextlib.suppress(BrokenPipeError):  # of a process that died, which its missing answer tells
            self._ours.send(what)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._ours.recv()
        except EOFError:
            raise SystemExit(
                "a benchmark's process died; its message stands above, or there was too little memory"
            ) from None
        if isinstance(answer, str):
            raise SystemExit(answer)
        return answer


@contextmanager
def programs(*made: tuple[Any, ...]) -> Iterator[list[Program]]:
    """Processes for `(make, *arguments)` each; they end with the block."""
    running: list[Program] = []
    try:
        for make, *arguments in made:
            running.append(Program(make, *arguments))
        yield running
    finally:
        for program in running:
            program.stop()


def take_turns(running: Sequence[Program], pairs: int = PAIRS, warm_up: int = 2) -> list[list[Turn]]:
    """`pairs` turns of each program, A B C A B C, after `warm_up` turns of each that do not count."""
    for program in running:
        for _ in range(warm_up):
            program.turn()
    turns: list[list[Turn]] = [[] for _ in running]
    for _ in range(pairs):
        for kept, program in zip(turns, running, strict=True):
            kept.append(program.turn())
    return turns


def ratio(slow: Sequence[Turn], fast: Sequence[Turn], clock: str = "wall") -> dict[str, float]:
    """How many times as fast the second is, pair by pair: median, lowest and highest."""
    values = [getattr(a, clock) / getattr(b, clock) for a, b in zip(slow, fast, strict=True)]
    return {
        "median": round(statistics.median(values), 3),
        "low": round(min(values), 3),
        "high": round(max(values), 3),
    }


def medians(turns: Sequence[Turn]) -> dict[str, float]:
    """Median seconds by the clock and by the cores, their spread, and the median of everything reported."""
    walls = [turn.wall for turn in turns]
    reported = {name: statistics.median(turn.reported[name] for turn in turns) for name in turns[0].reported}
    return {
        "seconds": round(statistics.median(walls), 4),
        "seconds_low": round(min(walls), 4),
        "seconds_high": round(max(walls), 4),
        "cpu_seconds": round(statistics.median(turn.cpu for turn in turns), 4),
        **{name: round(value, 4) for name, value in reported.items()},
    }


def spread(value: dict[str, float]) -> str:
    """A ratio as text: median, and lowest to highest."""
    return f"{value['median']:.2f}x ({value['low']:.2f}-{value['high']:.2f})"


def peak_rss() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _serve(asked: Connection, make: Callable[..., Call], arguments: tuple[Any, ...]) -> None:
    try:
        call = make(*arguments)
        asked.send(peak_rss())
        while True:
            asked.send(peak_rss() if asked.recv() == "peak" else _time(call))
    except EOFError:
        return
    except SystemExit as error:
        asked.send(str(error))


def _time(call: Call) -> Turn:
    wall, cpu = time.perf_counter(), time.process_time()
    reported = call()
    return Turn(time.perf_counter() - wall, time.process_time() - cpu, reported)
