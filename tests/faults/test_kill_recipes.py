"""The real recipes on real video files, killed at random moments: the resumed run ends with the same bits."""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from videomae2.engine.log import read_lines
from videomae2.recipes.train import run_task

from ..engine.toys import same_tensors, without_time
from ..small_runs import finetune_settings, pretrain_settings, write_classes
from .test_kill import FORK

Recipe = Callable[[Path, Path, int], Any]
References = Callable[[Recipe], tuple[Path, float]]


def pretraining(videos: Path, out: Path, workers: int) -> Any:
    settings = pretrain_settings(videos, out)
    return long(replace(settings, model=replace(settings.model, drop_path=0.2)), workers)


def finetuning(videos: Path, out: Path, workers: int) -> Any:
    return long(finetune_settings(videos, out), workers)


def long(settings: Any, workers: int) -> Any:
    """Twelve steps of two forwards, averaged, clipped, saved every third."""
    optim = replace(settings.optim, length=12, warmup=2, accumulate=2, ema_decay=0.9, clip_grad=1.0)
    run = replace(settings.run, checkpoint_every=3, evaluate_every=6)
    return replace(settings, optim=optim, run=run, data=replace(settings.data, workers=workers, val=""))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("videos"))


def whole(recipe: Recipe, videos: Path, folder: Path) -> tuple[Path, float]:
    """An uninterrupted run of a recipe, and how long it takes once warm."""
    for name in ("warm", "whole"):
        began = time.monotonic()
        run_task(recipe(videos, folder / name, 0))
        seconds = time.monotonic() - began
    return folder / "whole", seconds


@pytest.fixture(scope="module")
def references(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> References:
    """The uninterrupted run of each recipe, made when first asked for."""
    made: dict[Recipe, tuple[Path, float]] = {}

    def reference(recipe: Recipe) -> tuple[Path, float]:
        if recipe not in made:
            made[recipe] = whole(recipe, videos, tmp_path_factory.mktemp("reference"))
        return made[recipe]

    return reference


def killed_after(seconds: float, settings: Any) -> int | None:
    """Train in a process of its own and kill it; how it ended."""

    def work() -> None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        run_task(settings)

    process = FORK.Process(target=work)
    process.start()
    time.sleep(seconds)
    process.kill()
    process.join()
    return process.exitcode


MOMENTS = [(pretraining, number) for number in range(10)] + [(finetuning, number) for number in range(4)]


@pytest.mark.parametrize(("recipe", "number"), MOMENTS)
def test_killed_and_resumed_equals_uninterrupted(
    references: References, videos: Path, tmp_path: Path, recipe: Recipe, number: int
) -> None:
    reference, seconds = references(recipe)
    out, delay = tmp_path / "run", random.Random(number).uniform(0.0, seconds)
    settings = recipe(videos, out, number % 2)
    while killed_after(delay, settings) != -signal.SIGKILL:  # it was faster than that
        shutil.rmtree(out)
        delay *= 0.7
    run_task(settings)
    assert same_tensors(reference, out)
    for name in ("model.safetensors", "model_without_ema.safetensors"):
        assert (reference / name).read_bytes() == (out / name).read_bytes()
    assert without_time(read_lines(reference / "metrics.jsonl")) == without_time(
        read_lines(out / "metrics.jsonl")
    )
