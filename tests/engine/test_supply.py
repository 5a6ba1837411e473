"""Broken videos: a few in a hundred never stop a run that allows more, many stop it soon; batches in step."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from videomae2.engine.run import StopRequest
from videomae2.engine.supply import BrokenVideos, Supply
from videomae2.errors import UserError
from videomae2.records import Batch, Failure

from .toys import OPTIM, RUN, plan_of, toy_batches


@pytest.mark.parametrize(("ranks", "batch"), [(512, 4), (64, 32), (1, 1), (2, 8)])
def test_two_percent_broken_never_stop_a_run_that_allows_five(ranks: int, batch: int) -> None:
    """Ten epochs of the paper's 1.35 million videos, or 200,000 steps; each step is judged."""
    rng, step = np.random.default_rng(ranks), ranks * batch
    per_epoch = 1_350_000 // step
    for epoch in range(10):
        count = BrokenVideos(0.05, per_epoch * step)
        for broken in rng.binomial(step, 0.02, size=min(per_epoch, 20_000)):
            count.count(epoch, step, int(broken))
            assert not count.too_many()


@pytest.mark.parametrize(("share", "within"), [(1.0, 7), (0.5, 60), (0.1, 2000), (0.06, 60_000)])
def test_more_than_the_limit_stops_soon(share: float, within: int) -> None:
    rng, count = np.random.default_rng(0), BrokenVideos(0.05, 1_350_000)
    while not count.too_many():
        count.count(0, 1, int(rng.random() < share))
    assert count.asked <= within


def test_an_epoch_with_more_broken_videos_than_allowed_stops_for_certain() -> None:
    """51 of 1000 in one epoch are more than 5 %; 50 in each of two epochs are not."""
    count = BrokenVideos(0.05, 1000)
    for epoch in range(2):
        count.count(epoch, 1000, 50)
        assert not count.too_many()
    count.count(1, 0, 1)
    assert count.too_many()


@pytest.mark.parametrize(("most", "broken", "stops"), [(0.0, 1, True), (0.0, 0, False), (1.0, 100, False)])
def test_none_and_all_may_be_allowed(most: float, broken: int, stops: bool) -> None:
    count = BrokenVideos(most, 1000)
    count.count(0, 100, broken)
    assert count.too_many() == stops


def supply_of(batches: Iterator[Batch[Any]], most: float) -> tuple[Supply, list[Failure]]:
    told: list[Failure] = []
    plan = plan_of(OPTIM, RUN, num_rows=40)
    return Supply(lambda: batches, plan, most, StopRequest(), told.extend), told


def broken_batches() -> Iterator[Batch[Any]]:
    for number, batch in enumerate(toy_batches(4)(0)):
        failure = Failure(number, f"{number}.mp4", "no frames")
        yield replace(batch, epoch=0, replaced=1, failures=(failure,))


def test_too_many_are_told_with_their_share_and_written_down_first() -> None:
    supply, told = supply_of(broken_batches(), 0.05)
    with pytest.raises(
        UserError, match=r"3 of 12 videos asked for .*\(25%\), and data.max_broken is 5%.*row 0"
    ):
        list(supply)
    assert [failure.row for failure in told] == [0, 1, 2]
    assert next(supply_of(broken_batches(), 0.5)[0]).replaced == 1


def test_what_the_loader_raises_comes_after_what_could_not_be_read() -> None:
    def failing() -> Iterator[Batch[Any]]:
        yield next(broken_batches())
        raise UserError("a loader process died")

    supply, told = supply_of(failing(), 1.0)
    next(supply)
    with pytest.raises(UserError, match="a loader process died"):
        next(supply)
    assert [failure.row for failure in told] == [0]
