"""The real recipes by their command line in two and three processes over gloo, against one process.

P processes with batch b are one process with batch P b, under DDP and FSDP2: training with clipping,
accumulation, an average, mixing and drop path, evaluation of both sets of weights, checkpoints, weights.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from videomae2.cli.main import main
from videomae2.config import to_toml
from videomae2.engine import checkpoint
from videomae2.engine.log import read_lines
from videomae2.recipes.train import run_task

from ..engine.toys import all_tensors, without_time
from ..launches import command
from ..small_runs import SmallRuns, finetune_settings, pretrain_settings

ROOT = Path(__file__).parents[2]
TASKS: dict[str, Callable[..., Any]] = {"pretrain": pretrain_settings, "finetune": finetune_settings}


def long(settings: Any) -> Any:
    """Four steps of two forwards with everything on, evaluated and saved in the middle and at the end."""
    optim = replace(
        settings.optim, length=4, warmup=2, accumulate=2, clip_grad=0.5, ema_decay=0.5, batch_size=2
    )
    run = replace(settings.run, checkpoint_every=2, evaluate_every=2, keep_last=9)
    model = replace(settings.model, drop_path=0.3, activation_checkpointing=True)
    return replace(settings, optim=optim, run=run, model=model)


class Alone:
    """One recipe, its page, and its run in one process."""

    def __init__(self, task: str, videos: Path, folder: Path) -> None:
        self.task, self.page, self.folder = task, folder / "page.toml", folder
        settings = long(TASKS[task](videos, folder / "run"))
        self.page.write_text(to_toml(settings))
        self.run = run_task(settings)

    def words(self, out: Path, **options: object) -> list[str]:
        """The command line of the same run elsewhere."""
        changed = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [self.task, str(self.page), *changed, "--out", str(out)]


@pytest.fixture(scope="module", params=TASKS)
def alone(request: pytest.FixtureRequest, runs: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    return Alone(request.param, runs.videos, tmp_path_factory.mktemp("alone"))


def assert_same_weights(run: Path, reference: Path) -> None:
    for name in ("model.safetensors", "model_without_ema.safetensors"):
        ours, theirs = load_file(run / name), load_file(reference / name)
        assert ours.keys() == theirs.keys()
        for tensor, expected in theirs.items():
            torch.testing.assert_close(ours[tensor], expected, rtol=1e-5, atol=1e-5)


def assert_same_log(run: Path, reference: Path) -> None:
    for mine, others in zip(logged(run), logged(reference), strict=True):
        assert mine == pytest.approx(others, rel=1e-5, abs=1e-6)


def logged(run: Path) -> list[dict[str, float]]:
    """The numbers of every line, evaluations flat."""
    lines = without_time(read_lines(run / "metrics.jsonl"))
    flat = ({**line, **line.get("evaluation", {})} for line in lines)
    return [{name: value for name, value in line.items() if name != "evaluation"} for line in flat]


@pytest.mark.parametrize("shard", ["none", "grad", "full"])
def test_two_processes_are_one_with_twice_the_batch(alone: Alone, tmp_path: Path, shard: str) -> None:
    run = tmp_path / "run"
    # One video a process: each pair of videos that is mixed is on two processes.
    words = alone.words(run, **{"optim.batch_size": 1, "run.shard": shard})
    ended = command(2, words, tmp_path / "said")
    assert [each.code for each in ended] == [0, 0], ended[0].err
    assert ended[0].out == f"{run}\n" and ended[1].out == ended[1].err == ""
    assert_same_weights(run, alone.run)
    assert_same_log(run, alone.run)
    # A checkpoint has the same names and shapes, sharded or not, and is read by one process.
    ours, theirs = all_tensors(run), all_tensors(alone.run)
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}


def back_to(step: int, run: Path, copy: Path) -> Path:
    """A copy of a run as it was after this step, as after a kill."""
    shutil.copytree(run, copy)
    (copy / "finished.json").unlink()
    for path in checkpoint.checkpoints(copy / "checkpoints"):
        if checkpoint.step_of(path) > step:
            shutil.rmtree(path)
    return copy


@pytest.mark.parametrize(("processes", "batch", "accumulate"), [(2, 2, 1), (2, 1, 2), (4, 1, 1)])
def test_a_run_goes_on_with_another_number_of_processes(
    alone: Alone, tmp_path: Path, processes: int, batch: int, accumulate: int
) -> None:
    if alone.task == "finetune" and processes == 4:
        pytest.skip("a launch of four is long; pre-training shows it")
    run = back_to(2, alone.run, tmp_path / "run")
    options = {"optim.batch_size": batch, "optim.accumulate": accumulate, "run.shard": "full"}
    ended = command(processes, alone.words(run, **options), tmp_path / "said")
    assert [each.code for each in ended] == [0] * processes, ended[0].err
    assert "after step 2 of 4" in ended[0].err
    assert_same_weights(run, alone.run)
    assert_same_log(run, alone.run)
    # And back again, from what several have written.
    again = back_to(2, run, tmp_path / "again")
    assert main(alone.words(again)) == 0
    assert_same_weights(again, alone.run)


def test_another_number_of_videos_in_a_step_is_another_run(alone: Alone, tmp_path: Path) -> None:
    run = back_to(2, alone.run, tmp_path / "run")
    ended = command(2, alone.words(run), tmp_path / "said")
    assert [each.code for each in ended] == [2, 2]
    assert len(ended[0].err.splitlines()) == 1 and ended[1].err == ""
    assert (
        "another schedule (expected peak_lr" in ended[0].err
        and "optim.accumulate x processes" in ended[0].err
    )
