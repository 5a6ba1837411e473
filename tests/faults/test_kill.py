"""SIGKILL at any moment: the resumed run ends with the same bits.

Children are forked, so that torch is imported once.
"""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest

from videomae2.engine.log import read_lines

from ..engine.toys import OPTIM, RUN, same_tensors, toy_batches, toy_run, without_time

FORK = multiprocessing.get_context("fork")
SETTINGS: dict[str, Any] = {
    "run": replace(RUN, checkpoint_every=2, keep_last=2),
    "batches": toy_batches(OPTIM.batch_size, failing=True),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run and how long it takes once warm."""
    toy_run(tmp_path_factory.mktemp("warm"), **SETTINGS)
    out = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    toy_run(out, **SETTINGS)
    return out, time.monotonic() - began


def child(out: Path, before: Callable[[], object] = lambda: None) -> ForkProcess:
    """Train in a process of its own; `before` is called in it first."""

    def work() -> None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        before()
        toy_run(out, **SETTINGS)

    process = FORK.Process(target=work)
    process.start()
    return process


def assert_equal(whole: Path, out: Path) -> None:
    assert same_tensors(whole, out)
    assert without_time(read_lines(whole / "metrics.jsonl")) == without_time(
        read_lines(out / "metrics.jsonl")
    )
    assert read_lines(whole / "failures.jsonl") == read_lines(out / "failures.jsonl")
    assert {path.name for path in whole.iterdir()} == {path.name for path in out.iterdir()}
    assert {path.name for path in (whole / "checkpoints").iterdir()} == {
        path.name for path in (out / "checkpoints").iterdir()
    }


@pytest.mark.parametrize("number", range(10))
def test_killed_at_a_random_moment(whole: tuple[Path, float], tmp_path: Path, number: int) -> None:
    reference, seconds = whole
    out, delay = tmp_path / "run", random.Random(number).uniform(0.0, seconds)
    while killed_after(out, delay) != -signal.SIGKILL:  # it was faster than that
        shutil.rmtree(out)
        delay *= 0.7
    toy_run(out, **SETTINGS)
    assert_equal(reference, out)


def killed_after(out: Path, seconds: float) -> int | None:
    process = child(out)
    time.sleep(seconds)
    process.kill()
    process.join()
    return process.exitcode


class FileOperations:
    """Counts, in a child, the operations on files below a folder; kills the child just before one of them."""

    NAMES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")

    def __init__(self, folder: Path, kill_at: int = -1) -> None:
        self.folder, self.kill_at = folder, kill_at
        self.counted = FORK.Value("i", 0)

    def watch(self) -> None:
        sys.addaudithook(self.note)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in self.NAMES and str(arguments[0]).startswith(str(self.folder)):
            self.counted.value += 1
            if self.counted.value == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def num_operations(tmp_path_factory: pytest.TempPathFactory) -> int:
    operations = FileOperations(tmp_path_factory.mktemp("counted"))
    child(operations.folder, operations.watch).join()
    assert operations.counted.value > 100
    return int(operations.counted.value)


MOMENTS = 16


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_killed_just_before_a_file_operation(
    whole: tuple[Path, float], tmp_path: Path, num_operations: int, moment: int
) -> None:
    """The moments that could tear something, spread over all opens, renames and removals of a run."""
    operations = FileOperations(tmp_path, kill_at=1 + moment * num_operations // MOMENTS)
    process = child(tmp_path, operations.watch)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    toy_run(tmp_path, **SETTINGS)
    assert_equal(whole[0], tmp_path)


def test_killed_again_and_again(whole: tuple[Path, float], tmp_path: Path) -> None:
    chance = random.Random(7)
    for _ in range(10):
        process = child(tmp_path)
        process.join(chance.uniform(0.1, 0.6 * whole[1] + 0.1))
        if process.exitcode is None:
            process.kill()
            process.join()
    toy_run(tmp_path, **SETTINGS)
    assert_equal(whole[0], tmp_path)
