"""The real recipes in two processes over gloo, under DDP and FSDP2, against one process with twice the batch.

Training with clipping, accumulation and an average, evaluation of both sets of weights, checkpoints, and the
weights that are written at the end: everything but the order of additions is the same.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from videomae2.engine import checkpoint, parallel
from videomae2.engine.log import read_lines
from videomae2.recipes.train import run_task

from ..engine.toys import all_tensors, without_time
from ..small_runs import SmallRuns, finetune_settings, pretrain_settings

FORK = multiprocessing.get_context("fork")
WRAPS = {"DDP": parallel.replicate, "FSDP2": parallel.shard}


def pretraining(videos: Path, out: Path) -> Any:
    return long(pretrain_settings(videos, out))


def finetuning(videos: Path, out: Path) -> Any:
    # What is drawn for a whole batch, mixing and drop path, is drawn for each process's own.
    settings = finetune_settings(videos, out, mixup=0.0, cutmix=0.0)
    return long(replace(settings, model=replace(settings.model, drop_path=0.0)))


def long(settings: Any) -> Any:
    """Four steps of two forwards with everything on, evaluated and saved in the middle and at the end."""
    optim = replace(
        settings.optim, length=4, warmup=2, accumulate=2, clip_grad=0.5, ema_decay=0.5, batch_size=2
    )
    return replace(settings, optim=optim, run=replace(settings.run, checkpoint_every=2, evaluate_every=2))


def in_two_processes(work: Callable[[], object], store: Path) -> None:
    """Do the same in two processes of one group; what they say is theirs."""

    def process(rank: int) -> None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        torch.set_num_threads(1)
        shared = dist.FileStore(str(store), 2)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=shared, rank=rank, world_size=2)
        work()
        dist.destroy_process_group()

    both = [FORK.Process(target=process, args=(rank,)) for rank in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(120)
    assert [each.exitcode for each in both] == [0, 0]


@pytest.fixture(scope="module", params=[pretraining, finetuning])
def alone(
    request: pytest.FixtureRequest, runs: SmallRuns, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    """One recipe, and its run in one process."""
    return request.param, run_task(request.param(runs.videos, tmp_path_factory.mktemp("alone") / "run"))


@pytest.mark.parametrize("wrap", WRAPS)
def test_two_processes_are_one_with_twice_the_batch(
    alone: tuple[Any, Path], runs: SmallRuns, tmp_path: Path, wrap: str
) -> None:
    recipe, reference = alone
    settings = recipe(runs.videos, tmp_path / "run")
    halved = replace(settings, optim=replace(settings.optim, batch_size=1))
    in_two_processes(lambda: run_task(halved, WRAPS[wrap]), tmp_path / "store")

    for name in ("model.safetensors", "model_without_ema.safetensors"):
        ours, theirs = load_file(tmp_path / "run" / name), load_file(reference / name)
        assert ours.keys() == theirs.keys()
        for tensor, expected in theirs.items():
            torch.testing.assert_close(ours[tensor], expected, rtol=1e-5, atol=1e-5)
    # A checkpoint has the same names and shapes, sharded or not, and is read by one process.
    ours, theirs = all_tensors(tmp_path / "run"), all_tensors(reference)
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}
    for mine, others in zip(logged(tmp_path / "run"), logged(reference), strict=True):
        assert mine == pytest.approx(others, rel=1e-5, abs=1e-6)


def logged(run: Path) -> list[dict[str, float]]:
    """The numbers of every line, evaluations flat."""
    lines = without_time(read_lines(run / "metrics.jsonl"))
    flat = ({**line, **line.get("evaluation", {})} for line in lines)
    return [{name: value for name, value in line.items() if name != "evaluation"} for line in flat]


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_run_of_two_processes_goes_on_from_its_last_checkpoint(
    alone: tuple[Any, Path], runs: SmallRuns, tmp_path: Path, wrap: str
) -> None:
    recipe, reference = alone
    settings = recipe(runs.videos, tmp_path / "run")
    halved = replace(settings, optim=replace(settings.optim, batch_size=1))
    in_two_processes(lambda: run_task(halved, WRAPS[wrap]), tmp_path / "store")
    # Back to the checkpoint in the middle, as after a kill.
    (tmp_path / "run" / "finished.json").unlink()
    for path in checkpoint.checkpoints(tmp_path / "run" / "checkpoints"):
        if checkpoint.step_of(path) == 4:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    in_two_processes(lambda: run_task(halved, WRAPS[wrap]), tmp_path / "store2")
    ours, theirs = (
        load_file(tmp_path / "run" / "model.safetensors"),
        load_file(reference / "model.safetensors"),
    )
    for tensor, expected in theirs.items():
        torch.testing.assert_close(ours[tensor], expected, rtol=1e-5, atol=1e-5)


def test_what_the_main_process_refuses_every_process_refuses(runs: SmallRuns, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    settings = pretraining(runs.videos, tmp_path / "run")

    def work() -> None:
        with pytest.raises(Exception, match="is not empty and holds no run"):
            run_task(settings)

    in_two_processes(work, tmp_path / "store")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]
