"""A recipe followed by its report: what the commands and the front door run."""

from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

from videomae2.api.model import load
from videomae2.api.views import reconstruction_blocks, some_videos
from videomae2.engine import parallel
from videomae2.recipes.detect import HARDEST
from videomae2.recipes.evaluate import Evaluation, run_evaluation
from videomae2.recipes.tasks import TASKS, task_of
from videomae2.recipes.train import run_task
from videomae2.recipes.weights import read_weights
from videomae2.report.box_pictures import hardest_blocks
from videomae2.report.page import Block
from videomae2.report.training import confusion_blocks, write_evaluation_report, write_run_report
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings


def train(settings: Any) -> Path:
    """Run the training task whose settings these are and write report.html; returns the run's folder.

    The same settings go on with an interrupted run. UserError: see `run_task`.
    """
    folder = run_task(settings)
    if parallel.is_main():
        show = SHOWN_OF_KIND.get(TASKS[task_of(settings)].kind)
        blocks, blank = show(folder, settings) if show else ([], None)
        write_run_report(folder, blocks, blank)
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
    if settings.out and parallel.is_main():
        write_evaluation_report(evaluation, settings.out)
    return evaluation


Shown = tuple[list[Block], float | None]
"""What the report of a run shows beside its log, and the loss of a network that knows nothing."""


def _reconstructions(folder: Path, settings: Any) -> Shown:
    # Normalised targets have mean 0 and variance 1 in each cube: to predict zeros costs 1.0.
    blank = None if settings.target.normalize == "none" else 1.0
    # On the CPU: the device may be full of what was trained, and three clips are soon done.
    return reconstruction_blocks(load(folder, device="cpu").reconstruct, some_videos(settings.data)), blank


def _confusions(folder: Path, _settings: Any) -> Shown:
    # Whatever the smoothing and mixing of labels, equal scores for K classes cost the logarithm of K.
    return confusion_blocks(folder), log(read_weights(str(folder)).num_classes or 1)


def _hardest(folder: Path, _settings: Any) -> Shown:
    return hardest_blocks(folder / HARDEST), None


SHOWN_OF_KIND: dict[str, Callable[[Path, Any], Shown]] = {
    "pretrain": _reconstructions,
    "classifier": _confusions,
    "detector": _hardest,
}
"""What the report of a run shows beside its log, by the kind of its weights (`TaskRow.kind`)."""
