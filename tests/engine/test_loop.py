import os
import shutil
import signal
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from videomae2.engine import checkpoint
from videomae2.engine.log import read_lines
from videomae2.engine.schedule import learning_rate
from videomae2.engine.step import RunStopped
from videomae2.errors import Stopped, UserError
from videomae2.labels import Unlabelled
from videomae2.records import Batch, StepOutput

from .toys import OPTIM, RUN, Toy, plan_of, same_tensors, toy_batches, toy_run, without_time


class StopAt(Toy):
    """Asks the process to stop in the middle of a step, as a cluster would."""

    def __init__(self, stop_at: int | None, number: int = signal.SIGTERM, **others: Any) -> None:
        super().__init__(**others)
        self.stop_at, self.number = stop_at, number

    def step(self, network: nn.Module, batch: Batch[Any], step: int) -> StepOutput:
        if step == self.stop_at:
            os.kill(os.getpid(), self.number)
            self.stop_at = None
        return super().step(network, batch, step)


class Broken(Toy):
    """Gives a loss or a gradient that is not finite at chosen steps."""

    def __init__(self, steps: Collection[int], where: str = "loss") -> None:
        super().__init__()
        self.steps, self.where = steps, where

    def step(self, network: nn.Module, batch: Batch[Any], step: int) -> StepOutput:
        output = super().step(network, batch, step)
        if step not in self.steps:
            return output
        if self.where == "loss":
            return StepOutput(output.loss * float("nan"), output.metrics)
        bias = network.get_parameter("encoder.3.bias")[0]
        return StepOutput(output.loss + (bias - bias.detach()).abs().sqrt(), output.metrics)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """An uninterrupted run: its folder and its task."""
    out = tmp_path_factory.mktemp("whole")
    return out, toy_run(out)[0]


@pytest.mark.parametrize("stop_at", [0, 3, 8, 13])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_and_resumed_run_equals_a_whole_one_bit_for_bit(
    whole: tuple[Path, nn.Module], tmp_path: Path, stop_at: int, number: int
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Stopped, match=f"stopped after step {stop_at + 1} of 14, saved in") as caught:
        toy_run(tmp_path, task=StopAt(stop_at, number))
    assert caught.value.exit_code == 128 + number
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    _, result = toy_run(tmp_path)
    assert result.resumed_from == stop_at + 1 and result.step == 14
    assert same_tensors(whole[0], tmp_path)


def test_the_log_of_a_resumed_run_has_each_step_once(whole: tuple[Path, nn.Module], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        toy_run(tmp_path, task=StopAt(8))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "loss": 7.0}\n{"step": 13, "lo')  # what a kill after step 9 could have left
    toy_run(tmp_path)
    resumed = without_time(read_lines(tmp_path / "metrics.jsonl"))
    assert resumed == without_time(read_lines(whole[0] / "metrics.jsonl"))


def test_chance_outside_the_loop_changes_nothing_and_is_not_changed(
    whole: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    task = Toy()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    toy_run(tmp_path, task=task)
    assert torch.equal(before, torch.get_rng_state())
    assert same_tensors(whole[0], tmp_path)


def test_another_seed_draws_another_dropout(whole: tuple[Path, nn.Module], tmp_path: Path) -> None:
    toy_run(tmp_path, run=replace(RUN, seed=1))
    assert not same_tensors(whole[0], tmp_path)


def test_a_finished_run_says_so_and_does_nothing(whole: tuple[Path, nn.Module]) -> None:
    before = (whole[0] / "metrics.jsonl").read_text()
    _, result = toy_run(whole[0])
    assert result.already_finished and result.step == 14
    assert result.best is not None and result.best.metric in ("score", "ema_score")
    assert (whole[0] / "metrics.jsonl").read_text() == before


def test_every_line_has_the_schedules_learning_rate_and_a_mean_loss(whole: tuple[Path, nn.Module]) -> None:
    lines = [line for line in read_lines(whole[0] / "metrics.jsonl") if "loss" in line]
    plan = plan_of(OPTIM, RUN)
    assert [line["lr"] for line in lines] == [learning_rate(plan, line["step"] - 1) for line in lines]
    assert lines[-1]["step"] == 14 and {"grad_norm", "clips_per_second", "bias", "epoch"} <= set(lines[-1])


def test_averaged_weights_are_evaluated_and_the_best_is_remembered(
    whole: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    evaluations = [
        line["evaluation"] for line in read_lines(whole[0] / "metrics.jsonl") if "evaluation" in line
    ]
    assert all({"score", "ema_score"} == set(values) for values in evaluations) and len(evaluations) == 4
    scores = iter([0.1, 0.2, 0.9, 0.8, 0.3, 0.4, 0.5, 0.6])
    _, result = toy_run(tmp_path, task=Toy(score=lambda _: next(scores)))
    assert result.best is not None
    assert (result.best.metric, result.best.value, result.best.step) == ("score", 0.9, 8)
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")] == [
        f"step-{step}" for step in (8, 10, 14)
    ]


def test_a_resume_remembers_what_best_was(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        toy_run(tmp_path, task=StopAt(8, score=lambda _: 5.0))
    _, result = toy_run(tmp_path, task=Toy(score=lambda _: 4.0))
    assert result.best is not None
    assert result.best.value == 5.0 and result.best.step == 4
    assert (tmp_path / "checkpoints" / "step-4").is_dir()


def test_the_best_resumes_too(whole: tuple[Path, nn.Module], tmp_path: Path) -> None:
    values = iter([9.0] + [1.0] * 7)
    toy_run(tmp_path, task=Toy(score=lambda _: next(values)))
    for step in (10, 14):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{step}")
    (tmp_path / "finished.json").unlink()
    _, result = toy_run(tmp_path)
    assert result.resumed_from == 4 and same_tensors(whole[0], tmp_path)


def test_accumulating_equals_one_large_batch(tmp_path: Path) -> None:
    plain = replace(OPTIM, ema_decay=0.0, clip_grad=0.0)
    small, _ = toy_run(
        tmp_path / "small", optim=replace(plain, batch_size=4, accumulate=2), task=Toy(dropout=0.0)
    )

    def joined(start: int) -> Iterator[Batch[Any]]:
        parts = toy_batches(4)(2 * start)
        while True:
            first, second = islice(parts, 2)
            frames, row, view = (
                torch.cat([getattr(each, n) for each in (first, second)]) for n in ("frames", "row", "view")
            )
            yield Batch(frames, row, view, Unlabelled(8))

    # One epoch of 12 videos is 3 batches of 4 but 1 of 8, so the length is given in steps.
    large_optim = replace(plain, batch_size=8, accumulate=1)
    large, _ = toy_run(tmp_path / "large", optim=large_optim, task=Toy(dropout=0.0), batches=joined)
    for ours, theirs in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_clipping_limits_the_update_and_logs_the_norm_before(tmp_path: Path) -> None:
    toy_run(tmp_path, optim=replace(OPTIM, clip_grad=1e-3))
    norms = [line["grad_norm"] for line in read_lines(tmp_path / "metrics.jsonl") if "loss" in line]
    assert max(norms) > 0.1


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, where: str) -> None:
    seen: list[tuple[int, torch.Tensor]] = []

    class Watched(Broken):
        def step(self, network: nn.Module, batch: Batch[Any], step: int) -> StepOutput:
            seen.append((step, network.get_parameter("encoder.0.weight").detach().clone()))
            return super().step(network, batch, step)

    task, _ = toy_run(tmp_path, task=Watched({5, 6}, where))
    before, after = dict(seen)[5], dict(seen)[7]
    assert torch.equal(before, after) and not torch.equal(after, dict(seen)[8])
    assert all(torch.isfinite(parameter).all() for parameter in task.parameters())
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if "loss" in line]
    assert lines[-1]["skipped"] == 2
    # A window of nothing but skipped steps has no mean; the others are not poisoned by theirs.
    assert [line["loss"] is None for line in lines if line["step"] in (6, 8)] == [True, False]


def test_too_many_in_a_row_stop_the_run_and_leave_the_weights(tmp_path: Path) -> None:
    task = Broken(set(range(6, 99)))
    with pytest.raises(
        RunStopped, match=r"not finite in 4 steps in a row up to step 10 .*max_nonfinite is 3.*lower --optim"
    ):
        toy_run(tmp_path, task=task)
    assert all(torch.isfinite(parameter).all() for parameter in task.network.parameters())
    assert checkpoint.find(tmp_path).name == "step-8"  # its evaluation was a new best


def test_skipped_steps_in_a_row_are_counted_across_a_resume(tmp_path: Path) -> None:
    class StopAtSeven(Broken):
        def step(self, network: nn.Module, batch: Batch[Any], step: int) -> StepOutput:
            if step == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(network, batch, step)

    with pytest.raises(Stopped):
        toy_run(tmp_path, task=StopAtSeven({6, 7, 8, 9}))
    with pytest.raises(RunStopped, match=r"4 steps in a row up to step 10"):
        toy_run(tmp_path, task=Broken({6, 7, 8, 9}))


def test_a_stop_during_an_evaluation_takes_no_further_step(
    whole: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    def score(_: nn.Module) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return -1.0

    with pytest.raises(Stopped, match="stopped after step 4 of 14"):
        toy_run(tmp_path, task=Toy(score=score))
    toy_run(tmp_path)
    assert same_tensors(whole[0], tmp_path)


def test_a_second_interrupt_ends_at_once_but_repeated_sigterm_does_not(tmp_path: Path) -> None:
    class Insistent(Toy):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def step(self, network: nn.Module, batch: Batch[Any], step: int) -> StepOutput:
            if step == 6:
                os.kill(os.getpid(), self.number)
            return super().step(network, batch, step)

    with pytest.raises(Stopped, match=r"after step 7"):
        toy_run(tmp_path / "term", task=Insistent(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt) as caught:
        toy_run(tmp_path / "int", task=Insistent(signal.SIGINT))
    assert not isinstance(caught.value, Stopped)
    assert checkpoint.find(tmp_path / "int").name == "step-5"


def test_a_changed_manifest_is_refused_on_resume(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        toy_run(tmp_path, task=StopAt(3))
    with pytest.raises(UserError, match=r"another schedule .*expected steps_per_epoch 1, got 2.*manifest"):
        toy_run(tmp_path, num_rows=20)


def test_another_architecture_is_refused_on_resume(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        toy_run(tmp_path, task=StopAt(3))
    with pytest.raises(UserError, match=r"another architecture"):
        toy_run(tmp_path, task=Toy(width=6))


def test_a_damaged_checkpoint_costs_only_its_steps(
    whole: tuple[Path, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stopped):
        toy_run(tmp_path, run=replace(RUN, keep_last=2), task=StopAt(6))
    newest = checkpoint.find(tmp_path)
    assert newest.name == "step-7"
    (newest / "__0_0.distcp").write_bytes(b"short")
    _, result = toy_run(tmp_path)
    assert result.resumed_from == 5 and same_tensors(whole[0], tmp_path)
    # Loud: on the terminal, and where the run is read about later.
    said = "step-7 is damaged: expected the files that were written, got other contents of __0_0.distcp"
    (kept,) = [line for line in read_lines(tmp_path / "metrics.jsonl") if "note" in line]
    assert kept["step"] == 5 and said in kept["note"] and kept["note"] in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if "7" in path.name] == []


def test_weights_that_are_not_finite_are_not_resumed(tmp_path: Path) -> None:
    task = Toy()
    with torch.no_grad():
        task.network.mask_token[0, 0, 3] = torch.inf
    # Nothing trains: a mask token that is not finite makes every loss so.
    optim = replace(OPTIM, length=2, warmup=0)
    toy_run(tmp_path, optim, replace(RUN, max_nonfinite=9), task)
    last = read_lines(tmp_path / "metrics.jsonl")[-1]
    assert last["evaluation"] == {"score": None, "ema_score": None}
    (tmp_path / "finished.json").unlink()
    with pytest.raises(UserError, match=r"checkpoint .*step-2, got NaN or infinity in model.mask_token"):
        toy_run(tmp_path, optim, replace(RUN, max_nonfinite=9))


def test_rows_that_failed_are_written_once(tmp_path: Path) -> None:
    toy_run(tmp_path, batches=toy_batches(4, failing=True))
    assert read_lines(tmp_path / "failures.jsonl") == [
        {"row": 5, "path": "broken.mp4", "reason": "no frames", "kind": "broken"}
    ]


def test_what_is_done_at_the_end_gets_both_sets_of_weights(tmp_path: Path) -> None:
    given: list[Any] = []
    network, _ = toy_run(tmp_path, finish=given.append)
    ((weights),) = given
    assert weights.keys() == {"model", "ema"} and weights["ema"].keys() == weights["model"].keys()
    assert all(torch.equal(weights["model"][name], value) for name, value in network.state_dict().items())
    assert not torch.equal(weights["ema"]["encoder.0.weight"], weights["model"]["encoder.0.weight"])


def test_bf16_trains_too(tmp_path: Path) -> None:
    _, result = toy_run(tmp_path, run=replace(RUN, precision="bf16"))
    assert result.step == 14


def test_tensorboard_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    toy_run(tmp_path, run=replace(RUN, tensorboard=True))
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))


def test_a_checkpoint_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a minute here; a checkpoint is due every four, counted from the last one."""
    steps: list[float] = []

    class Slow(Toy):
        def step(self, network: nn.Module, batch: Batch[Any], step: int) -> StepOutput:
            steps.append(60.0 / OPTIM.accumulate)
            return super().step(network, batch, step)

    monkeypatch.setattr("videomae2.engine.supply.time", SimpleNamespace(monotonic=lambda: sum(steps)))
    run = replace(RUN, checkpoint_every="4min", evaluate_every=0, keep_last=9)
    toy_run(tmp_path, run=run, task=Slow(), best=None)
    saved = [checkpoint.step_of(path) for path in checkpoint.checkpoints(tmp_path / "checkpoints")]
    assert saved == [5, 10, 14]
