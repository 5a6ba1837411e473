"""Ctrl-C is answered at once, even inside torch; the second one quits; an evaluation is left out."""

import hashlib
import multiprocessing.process
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from videomae2.engine import checkpoint
from videomae2.engine.log import read_lines
from videomae2.engine.run import StopRequest
from videomae2.errors import Stopped
from videomae2.records import Batch, StepOutput

from ..engine.toys import RUN, Toy, same_tensors, toy_run, without_time
from .test_kill import FORK

RUNS: dict[str, Any] = {"run": replace(RUN, evaluate_every=4, checkpoint_every=0)}


def in_c(seconds_of_work: int) -> None:
    """Something that a signal handler of Python waits for, as for a backward pass."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000 * seconds_of_work)


class Slow(Toy):
    """Works long in its fifth step, or in its evaluation after the fourth, and says so by a file."""

    def __init__(
        self, marker: Path, evaluation: bool = False, work: Callable[[], None] = lambda: in_c(2)
    ) -> None:
        super().__init__()
        self.marker, self.evaluation, self.work = marker, evaluation, work

    def step(self, network: nn.Module, batch: Batch[Any], step: int) -> StepOutput:
        if step == 4 and not self.evaluation:
            self.dawdle()
        return super().step(network, batch, step)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        if self.evaluation:
            self.dawdle()
        return super().evaluate(network)

    def dawdle(self) -> None:
        if not self.marker.exists():
            self.marker.write_text("begun")
            self.work()
            self.marker.write_text("ended")


def child(out: Path, task: Slow, told: Path) -> multiprocessing.process.BaseProcess:
    """Train in a process of its own, which ends as the command line does."""

    def work() -> None:
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        try:
            toy_run(out, task=task, **RUNS)
        except Stopped as stopped:
            os._exit(stopped.exit_code)
        except KeyboardInterrupt:
            os._exit(1)
        os._exit(0)

    process = FORK.Process(target=work)
    process.start()
    return process


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def interrupt(process: multiprocessing.process.BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)


@pytest.fixture
def told(tmp_path: Path) -> Path:
    (tmp_path / "told").touch()
    return tmp_path / "told"


def test_the_answer_does_not_wait_for_the_step(tmp_path: Path, told: Path) -> None:
    task = Slow(tmp_path / "marker")
    process = child(tmp_path / "run", task, told)
    wait_until(task.marker.exists)
    interrupt(process)
    wait_until(lambda: "stopping after this step; again quits without saving" in told.read_text())
    assert task.marker.read_text() == "begun"
    process.join()
    assert process.exitcode == 130
    assert checkpoint.find(tmp_path / "run").name == "step-5"


def test_the_second_one_quits_even_where_python_does_not_hear_it(
    tmp_path: Path, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopRequest, "PATIENCE", 0.1)
    task = Slow(tmp_path / "marker", work=lambda: in_c(60))
    process = child(tmp_path / "run", task, told)
    wait_until(task.marker.exists)
    interrupt(process)
    wait_until(lambda: "again quits without saving" in told.read_text())
    time.sleep(0.25)  # the same signal may be told twice, by a process that was just forked
    interrupt(process)
    process.join(100)
    assert process.exitcode == 130 and "quitting without saving" in told.read_text()
    # That of the best evaluation so far, and none of the step in which it came.
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-4"]


def test_an_evaluation_is_left_out_and_repeated(tmp_path: Path, told: Path) -> None:
    toy_run(tmp_path / "whole", **RUNS)
    task = Slow(tmp_path / "marker", evaluation=True, work=lambda: time.sleep(600))
    process = child(tmp_path / "run", task, told)
    wait_until(task.marker.exists)
    interrupt(process)
    process.join(100)
    assert process.exitcode == 130 and task.marker.read_text() == "begun"
    assert "stopping now; the evaluation is repeated on resume; again quits" in told.read_text()
    _, result = toy_run(tmp_path / "run", **RUNS)
    assert result.resumed_from == 4 and same_tensors(tmp_path / "whole", tmp_path / "run")
    logs = [without_time(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("whole", "run")]
    assert logs[0] == logs[1]


def test_a_stop_between_two_evaluations_leaves_the_trained_weights_in_place(tmp_path: Path) -> None:
    toy_run(tmp_path / "whole", **RUNS)
    asked: list[int] = []

    def score(_: nn.Module) -> float:
        asked.append(1)
        if len(asked) == 2:  # of the averaged weights
            os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    with pytest.raises(Stopped, match="stopped after step 4 of 14"):
        toy_run(tmp_path / "run", task=Toy(score=score), **RUNS)
    toy_run(tmp_path / "run", **RUNS)
    assert same_tensors(tmp_path / "whole", tmp_path / "run")
