"""A recipe followed by its report: what the commands and the front door run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from videomae2.api.model import load
from videomae2.api.views import reconstruction_blocks, some_videos
from videomae2.engine import parallel
from videomae2.recipes.detect import HARDEST
from videomae2.recipes.evaluate import Evaluation, run_evaluation
from videomae2.recipes.tasks import TASKS, task_of
from videomae2.recipes.train import run_task
from videomae2.report.box_pictures import hardest_blocks
from videomae2.report.page import Block
from videomae2.report.training import write_evaluation_report, write_run_report
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings


def train(settings: Any) -> Path:
    """Run the training task whose settings these are and write report.html; returns the run's folder.

    The same settings go on with an interrupted run. UserError: see `run_task`.
    """
    folder = run_task(settings)
    show = SHOWN_OF_KIND.get(TASKS[task_of(settings)].kind)
    parallel.on_main(lambda: write_run_report(folder, show(folder, settings) if show else ()))
    return folder


def pretrain(settings: PretrainSettings) -> Path:
    """Pre-train and write report.html; returns the run's folder. As `train`."""
    return train(settings)


def finetune(settings: FinetuneSettings) -> Path:
    """Fine-tune and write report.html; returns the run's folder. As `train`."""
    return train(settings)


def evaluate(settings: EvaluateSettings) -> Evaluation:
    """Evaluate; with `settings.out`, write scores, tables and report.html there."""
    evaluation = run_evaluation(settings)
    if settings.out:
        parallel.on_main(lambda: write_evaluation_report(evaluation, settings.out))
    return evaluation


def _reconstructions(folder: Path, settings: Any) -> list[Block]:
    # On the CPU: the device may be full of what was trained, and three clips are soon done.
    return reconstruction_blocks(load(folder, device="cpu").reconstruct, some_videos(settings.data))


def _hardest(folder: Path, _settings: Any) -> list[Block]:
    return hardest_blocks(folder / HARDEST)


SHOWN_OF_KIND: dict[str, Callable[[Path, Any], list[Block]]] = {
    "pretrain": _reconstructions,
    "detector": _hardest,
}
"""What the report of a run shows beside its log, by the kind of its weights (`TaskRow.kind`)."""
