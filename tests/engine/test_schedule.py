from typing import Any

import pytest

from videomae2.engine.schedule import Plan, learning_rate, make_plan, resolve
from videomae2.errors import UserError
from videomae2.settings import OptimSettings, RunSettings


def plan(
    rows: int = 640, views: int = 1, world_size: int = 1, run: RunSettings | None = None, **optim: Any
) -> Plan:
    optim = {"length": "10ep", "warmup": "1ep", **optim}
    return make_plan(OptimSettings(**optim), run or RunSettings(), rows, views, world_size)


def test_durations_are_epochs_shares_or_steps() -> None:
    assert resolve("30ep", 20, 1000) == 600
    assert resolve("0.5ep", 20, 1000) == 10
    assert resolve("5%", 20, 1000) == 50
    assert resolve(12000, 20, 1000) == resolve("12000", 20, 1000) == 12000
    assert resolve("0.29%", 1, 10000) == 29
    assert resolve("0ep", 20, 1000) == 0
    assert resolve("1%", 20, 30) == 1


@pytest.mark.parametrize("wrong", ["30 epochs", "ep", "", "-3", "1.5", "5%%"])
def test_anything_else_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"expected optim.length .*'30ep'.*'5%'.*12000.* got"):
        plan(length=wrong)


def test_a_length_cannot_be_a_share_of_itself() -> None:
    with pytest.raises(UserError, match=r"expected optim.length .* got '50%', a share of itself"):
        plan(length="50%")


def test_the_warmup_must_fit() -> None:
    with pytest.raises(
        UserError, match=r"at most the 100 steps of optim.length 100, got '30ep', 600 steps; try"
    ):
        plan(length=100, warmup="30ep")


def test_no_steps_no_rows_no_batch() -> None:
    with pytest.raises(UserError, match=r"of at least one optimizer step, got"):
        plan(length=0)
    with pytest.raises(UserError, match=r"no rows"):
        plan(rows=0)
    with pytest.raises(UserError, match=r"expected optim.accumulate of at least 1, got 0"):
        plan(accumulate=0)


def test_the_papers_peak_learning_rate_counts_repeated_views() -> None:
    optim = OptimSettings(batch_size=32, lr_counts_views=True, base_lr=1.5e-4)
    resolved = make_plan(optim, RunSettings(), 64 * 32 * 10, views=4, world_size=64)
    assert resolved.effective_batch == 8192 and resolved.peak_lr == pytest.approx(4.8e-3)
    released = OptimSettings(batch_size=32, lr_counts_views=False, base_lr=6e-4, min_lr=1e-5)
    resolved = make_plan(released, RunSettings(), 64 * 32 * 10, views=4, world_size=64)
    assert resolved.effective_batch == 2048 and resolved.peak_lr == pytest.approx(4.8e-3)
    assert resolved.final_lr == pytest.approx(8e-5)


def test_accumulation_shortens_a_run_and_keeps_its_epochs() -> None:
    """An epoch of 640 videos has 20 steps of 32, or 6 of 96: what is left is less than a step (released)."""
    whole, third = plan(accumulate=1), plan(accumulate=3)
    assert whole.steps == 200 and third.steps == 60
    assert whole.epoch(200) == third.epoch(60) == 10
    assert third.videos_per_epoch == 576
    assert third.peak_lr == pytest.approx(3 * whole.peak_lr)


def test_a_plan_is_that_of_its_steps_whoever_takes_them() -> None:
    alone = plan(batch_size=48)
    for shared in (plan(batch_size=24, world_size=2), plan(batch_size=8, world_size=3, accumulate=2)):
        assert shared.fixed() == alone.fixed()
        shared.must_equal(alone.fixed(), "here")
    with pytest.raises(UserError, match=r"expected videos_per_step 48, got 96.*optim.batch_size x"):
        plan(batch_size=48, world_size=2).must_equal(alone.fixed(), "here")


def test_no_step_is_outside_the_schedule() -> None:
    resolved = plan()
    assert learning_rate(resolved, 0) == 0 and learning_rate(resolved, resolved.steps - 1) > resolved.final_lr
    for step in (-1, resolved.steps):
        with pytest.raises(IndexError, match=r"outside a run of 200 steps"):
            learning_rate(resolved, step)


def test_what_is_due_when() -> None:
    resolved = plan(run=RunSettings(checkpoint_every="1ep", evaluate_every="50%"))
    assert [s for s in range(201) if resolved.is_due(resolved.evaluate_every, s)] == [100, 200]
    assert [s for s in range(201) if resolved.is_due(resolved.checkpoint_every, s)] == list(
        range(20, 201, 20)
    )
    assert not resolved.is_due(0, 100) and resolved.is_due(0, 200)


def test_the_description_says_what_was_derived() -> None:
    text = plan(batch_size=32, views=4, lr_counts_views=True).describe()
    assert "optimizer steps: 200 (10 epochs of 20 steps)" in text
    assert "32 videos, 128 clips" in text
    assert "batch of the learning-rate rule: 128 (peak = base * 128 / 256)" in text


def test_checkpoints_may_follow_the_clock() -> None:
    resolved = plan(run=RunSettings(checkpoint_every="20min"))
    assert (resolved.checkpoint_every, resolved.checkpoint_minutes) == (0, 20.0)
    assert "checkpoint: every 20 minutes and at the end" in resolved.describe()
    assert plan().fixed() == resolved.fixed()
