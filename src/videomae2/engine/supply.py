"""The batches of a run, fetched by all ranks in step: what one rank meets, all learn before the forward.

An error of one rank's loader, a signal to stop and the videos that could not be read are agreed on with each
batch, by one small reduction between CPUs. So no rank waits in a collective for one that has given up, all
stop after the same step, and the share of broken videos is that of the whole run.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from videomae2.engine import parallel
from videomae2.engine.run import StopRequest
from videomae2.engine.schedule import Plan
from videomae2.errors import RowError, UserError
from videomae2.records import Failure

EVIDENCE = 20.0
"""Nats by which a share must be above the limit to stop a run early; chance gets there once in 5e8 times."""

FAILURES_NAMED = 3
"""Unreadable videos that are named where there are too many."""


class BrokenVideos:
    """How many videos of this epoch were asked for over all ranks, and how many of them could not be read.

    In an epoch each video is asked for once, so more broken ones than `most` of the epoch are too many for
    certain. Earlier the share is an estimate, and must lie above `most` by far more than chance explains.
    """

    def __init__(self, most: float, videos_per_epoch: int) -> None:
        self.most = most
        self.videos_per_epoch = videos_per_epoch
        self.epoch = -1
        self.asked = self.broken = 0

    def count(self, epoch: int, asked: int, broken: int) -> None:
        """Add what was asked for; another epoch starts from zero."""
        if epoch != self.epoch:
            self.epoch, self.asked, self.broken = epoch, 0, 0
        self.asked += asked
        self.broken += broken

    def too_many(self) -> bool:
        """Whether a run with this limit must stop."""
        if self.broken > self.most * self.videos_per_epoch:
            return True
        share = self.broken / max(1, self.asked)
        return share > self.most and self.asked * _divergence(share, self.most) > EVIDENCE


def _divergence(share: float, most: float) -> float:
    """Kullback-Leibler divergence of one trial of probability `share` from one of `most`, in nats."""
    # By Chernoff's bound n trials of probability `most` have a share this high with probability at most
    # exp(-n * divergence), for any n; a normal approximation is far off where n is small.
    terms = ((share, most), (1 - share, 1 - most))
    return sum(p * math.log(p / q) if q > 0 else math.inf for p, q in terms if p > 0)


class Supply:
    """This rank's batches from a step on, as an iterator. Every rank calls `next` equally often.

    `open_at` maps a batch number to batches; it is called with the first `next`, so that a run with nothing
    left to train starts no workers. `tell` is given the failures of all ranks. UserError, on every rank, for
    what the loader of one of them raises, and where more than `max_broken` of the videos are broken.
    """

    def __init__(
        self,
        open_at: Callable[[], Iterator[Any]],
        plan: Plan,
        max_broken: float,
        stop: StopRequest,
        tell: Callable[[list[Failure]], None],
    ) -> None:
        self._open = open_at
        self._stream: Iterator[Any] | None = None
        self._views, self._request, self._tell = plan.views, stop, tell
        self._save_seconds = plan.checkpoint_minutes * 60
        self._broken = BrokenVideos(max_broken, plan.videos_per_epoch)
        self._failures: list[Failure] = []
        self._first: dict[int, Failure] = {}
        self._agreed_stop = 0
        self._saving, self._saved_at = False, time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch: Any = None
        error: parallel.Shared | None = None
        try:
            self._stream = self._stream or self._open()
            batch = next(self._stream)
        except (UserError, RowError, OSError) as raised:
            error = raised
        asked = len(batch) // self._views if batch is not None else 0
        replaced = batch.replaced if batch is not None else 0
        failed, asked, replaced = self._agree(error is not None, asked, replaced)
        if batch is not None:
            self._note(batch.failures)
            self._broken.count(batch.epoch, asked, replaced)
        if failed:
            self.report()
            parallel.agree(error)
        if self._broken.too_many():
            self.report()
            raise self._too_many()
        assert batch is not None, "no rank has failed, this one included"
        return batch

    @property
    def stopping(self) -> int:
        """The signal by which the run was asked to stop, the same on every rank; 0 before."""
        return self._agreed_stop if parallel.in_group() else self._request.number

    @property
    def saving(self) -> bool:
        """Whether it is time for a checkpoint by the clock of rank 0; the same on every rank."""
        return self._saving

    def saved(self) -> None:
        """Start the time until the next checkpoint anew."""
        self._saving, self._saved_at = False, time.monotonic()

    def agree_on_stop(self) -> None:
        """Learn of signals on other ranks; after long work without a batch. Collective."""
        self._agree(False, 0, 0)

    def report(self) -> None:
        """Tell the videos that could not be read since the last report, on any rank. Collective."""
        failures, self._failures = self._failures, []
        found = [failure for each in parallel.all_objects(failures) for failure in each]
        parallel.on_main(lambda: self._tell(found))

    def close(self) -> None:
        """End the loader's worker processes now, rather than when the garbage collector runs."""
        if self._stream is not None and hasattr(self._stream, "close"):
            self._stream.close()

    def _agree(self, failed: bool, asked: int, replaced: int) -> list[int]:
        number = self._request.number
        signals = [number == each for each in StopRequest.SIGNALS]
        waited = 0 < self._save_seconds <= time.monotonic() - self._saved_at
        late = waited and parallel.is_main()
        *sums, saving, terminated, interrupted = parallel.summed([failed, asked, replaced, late, *signals])
        self._saving |= bool(saving)
        if terminated or interrupted:
            self._agreed_stop = int(signal.SIGTERM if terminated else signal.SIGINT)
        return sums

    def _note(self, failures: tuple[Failure, ...]) -> None:
        self._failures += failures
        for failure in failures:
            if len(self._first) < FAILURES_NAMED:
                self._first.setdefault(failure.row, failure)

    def _too_many(self) -> UserError:
        found = {row: each for first in parallel.all_objects(self._first) for row, each in first.items()}
        named = "; ".join(f"row {f.row}, {f.path}: {f.reason}" for f in list(found.values())[:FAILURES_NAMED])
        counts = self._broken
        advice = "mend or remove them (videomae2 data check names all), or raise data.max_broken"
        if all(failure.kind == "transport" for failure in found.values()):
            advice = "mend the way to them, and run the same command again: it goes on where it was"
        return UserError(
            f"{counts.broken} of {counts.asked} videos asked for in this epoch could not be read "
            f"({counts.broken / counts.asked:.0%}), and data.max_broken is {counts.most:.0%}; first "
            f"failures: {named}; {advice}"
        )
