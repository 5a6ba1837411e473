"""A task that the package does not have, in one row: tell clips whose frames were reversed.

What stands between the two lines is all that whoever adds a task writes. It trains, is judged and averaged,
goes on after SIGKILL with the same bits, loads by name and gets its report.
"""

import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videomae2 import chance
from videomae2.api.jobs import train
from videomae2.api.model import load
from videomae2.cli.main import main
from videomae2.config import to_toml
from videomae2.engine.log import read_lines
from videomae2.engine.run import Metric
from videomae2.heads.classify import build_classifier
from videomae2.recipes.feed import EvaluationFeed, Prepared, Recipe, TrainingFeed, held_out_feed
from videomae2.recipes.tasks import TASKS, TaskRow
from videomae2.recipes.weights import About, sampling_of
from videomae2.records import Batch, StepOutput
from videomae2.settings import DataSettings, ModelSettings, OptimSettings, RunSettings

from ..engine.toys import same_tensors, without_time
from ..small_runs import MODEL, OPTIM, SmallRuns, finetune_settings

# ------------------------------------------------------------------------------------ the task, from here


@dataclass(frozen=True)
class OrderSettings:
    """`videomae2 order`: tell clips that run backwards from those that run as filmed."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    run: RunSettings = field(default_factory=RunSettings)


class FrameOrder:
    """Reverse every other clip, by chance that follows from seed, epoch and row, and say which."""

    def __init__(self, network: nn.Module, seed: int, held_out: EvaluationFeed | None) -> None:
        self.network, self.seed, self.held_out = network, seed, held_out

    def step(self, network: nn.Module, batch: Batch[Any], _step: int) -> StepOutput:
        frames, backwards = self.turned(batch, "train", batch.epoch)
        return StepOutput(nn.functional.cross_entropy(network(frames).float(), backwards))

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        right = [hit for batch in self.held_out or () if len(batch) for hit in self.hits(network, batch)]
        return {"accuracy": sum(right) / len(right)}

    def hits(self, network: nn.Module, batch: Batch[Any]) -> list[bool]:
        frames, backwards = self.turned(batch, "judge", 0)
        return [bool(hit) for hit in network(frames).argmax(1) == backwards]

    def turned(self, batch: Batch[Any], purpose: str, epoch: int) -> tuple[Tensor, Tensor]:
        keys = chance.keys(chance.key(self.seed, purpose, epoch), batch.row, batch.view)
        backwards = chance.uniform(keys, 1)[:, 0] < 0.5
        frames = torch.where(backwards[:, None, None, None, None], batch.frames.flip(1), batch.frames)
        return frames, backwards.long()


def prepare_order(settings: OrderSettings, _feed: TrainingFeed) -> Prepared:
    seed = chance.key(settings.run.seed, "initial weights")
    network = build_classifier(settings.model, 2, generator=chance.torch_generator(seed))
    held_out = held_out_feed(settings.data, settings.model, settings.optim.batch_size, settings.run.device)
    names = ("as filmed", "backwards")
    about = About("classifier", settings.model, 2, names, {"data": sampling_of(settings.data)})
    return Prepared(FrameOrder(network, settings.run.seed, held_out), about)


ROW = TaskRow(
    title="Order of frames",
    summary="Tell clips that run backwards from those that run as filmed.",
    settings=OrderSettings,
    recipe=Recipe(prepare_order),
    kind="classifier",
    best=Metric("accuracy"),
)

# ------------------------------------------------------------------------------------------- to here


def test_the_task_has_at_most_sixty_lines() -> None:
    text = Path(__file__).read_text()
    lines = text.split("the task, from here\n")[1].split("to here\n")[0].splitlines()
    assert len([line for line in lines if line.strip()]) <= 60


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one row, in the package's table for the time of a test."""
    monkeypatch.setitem(TASKS, "order", ROW)


def settings_of(runs: SmallRuns, out: Path) -> OrderSettings:
    usual = finetune_settings(runs.videos, out)
    optim = replace(OPTIM, length=8, warmup=2, ema_decay=0.9, accumulate=2)
    run = replace(usual.run, checkpoint_every=2, evaluate_every=4)
    return OrderSettings(replace(MODEL, drop_path=0.2), usual.data, optim, run)


@pytest.fixture(scope="module")
def trained(runs: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the new task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "order", ROW)
        return train(settings_of(runs, tmp_path_factory.mktemp("order") / "run"))


def test_it_trains_and_is_judged_and_averaged(trained: Path) -> None:
    lines = read_lines(trained / "metrics.jsonl")
    assert {line["step"] for line in lines if "loss" in line} == set(range(1, 9))
    judged = [line["evaluation"] for line in lines if "evaluation" in line]
    assert len(judged) == 2 and all({"accuracy", "ema_accuracy"} == set(values) for values in judged)
    assert (trained / "model_without_ema.safetensors").is_file()


def test_it_loads_by_the_name_of_its_run_and_predicts(trained: Path, runs: SmallRuns) -> None:
    model = load(str(trained))
    video = next(runs.videos.rglob("*.mp4"))
    assert {each.name for each in model.predict(video)} == {"as filmed", "backwards"}


def test_it_gets_its_report(trained: Path) -> None:
    html = (trained / "report.html").read_text()
    assert "Order of frames" in html and "accuracy" in html and "<svg" in html


def test_killed_it_goes_on_with_the_same_bits(trained: Path, runs: SmallRuns, tmp_path: Path) -> None:
    settings = settings_of(runs, tmp_path / "run")
    for number in range(3):
        delay = random.Random(number).uniform(0.2, 1.0)
        while killed_after(delay, settings) != -signal.SIGKILL:
            shutil.rmtree(tmp_path / "run")
            delay *= 0.6
        train(settings)
        assert same_tensors(trained, tmp_path / "run")
        for name in ("model.safetensors", "model_without_ema.safetensors"):
            assert (trained / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
        ours, theirs = (read_lines(run / "metrics.jsonl") for run in (tmp_path / "run", trained))
        assert without_time(ours) == without_time(theirs)
        shutil.rmtree(tmp_path / "run")


def killed_after(seconds: float, settings: OrderSettings) -> int | None:
    """Train in a process of its own and kill it; how it ended."""

    def work() -> None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        train(settings)

    process = get_context("fork").Process(target=work)
    process.start()
    time.sleep(seconds)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


def test_the_command_line_has_it(runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "order.toml"
    page.write_text(to_toml(settings_of(runs, tmp_path / "run")))
    assert main(["order", str(page), "--optim.length", "1", "--optim.warmup", "0", "--data.val", ""]) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert main(["--help"]) == 0
    assert ROW.summary in " ".join(capsys.readouterr().out.replace("│", " ").split())
