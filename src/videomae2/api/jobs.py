"""A recipe followed by its report: what the commands and the front door run."""

from collections.abc import Callable, Mapping
from math import log
from pathlib import Path
from typing import Any

from videomae2.api import threads_spin
from videomae2.api.model import load
from videomae2.api.views import reconstruction_blocks, some_videos
from videomae2.config import resolve
from videomae2.engine import parallel
from videomae2.engine.device import choose_device
from videomae2.engine.progress import say
from videomae2.errors import UserError
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
    if threads_spin and settings.data.workers and choose_device(settings.run.device).type == "cpu":
        say(
            "note: torch was imported before videomae2, so its threads wait by spinning, which slows "
            "training beside loader processes; import videomae2 first, or set OMP_WAIT_POLICY=passive"
        )
    folder = run_task(settings)
    show = SHOWN_OF_KIND.get(TASKS[task_of(settings)].kind, _nothing)
    parallel.on_main(lambda: write_run_report(folder, *show(folder, settings)))
    return folder


Given = str | Path | None
"""A page of settings, or a run's folder to go on with, or nothing."""


def pretrain(settings: PretrainSettings | Given = None, /, *, preset: str = "", **given: Any) -> Path:
    """Pre-train and write report.html; returns the run's folder. As `train`.

    Settings are keywords, over a preset, over a page: `pretrain(train="clips/", out="runs/x", preset="tiny",
    length="30ep")`; `model={...}` and the like set several of a section. Or they come as one object.
    """
    return train(_asked(PretrainSettings, settings, preset, given))


def finetune(settings: FinetuneSettings | Given = None, /, *, preset: str = "", **given: Any) -> Path:
    """Fine-tune and write report.html; returns the run's folder. Settings as in `pretrain`."""
    return train(_asked(FinetuneSettings, settings, preset, given))


def evaluate(settings: EvaluateSettings | Given = None, /, *, preset: str = "", **given: Any) -> Evaluation:
    """Evaluate; with `out`, write scores, tables and report.html there. Settings as in `pretrain`."""
    asked = _asked(EvaluateSettings, settings, preset, given)
    evaluation = run_evaluation(asked)
    if asked.out:
        parallel.on_main(lambda: write_evaluation_report(evaluation, asked.out))
    return evaluation


def _asked(cls: type[Any], settings: Any, preset: str, given: Mapping[str, Any]) -> Any:
    """The settings of a call: an object as it is, else page, preset and keywords; keywords win."""
    if settings is None or isinstance(settings, str | Path):
        return resolve(cls, settings, (), preset, given).settings
    if type(settings) is not cls or preset or given:
        raise UserError(
            f"expected {cls.__name__}, or keywords such as train='clips/', got {type(settings).__name__}"
            + (
                " and keywords; change the object with dataclasses.replace"
                if preset or given
                else "; give one"
            )
        )
    return settings


Shown = tuple[list[Block], float | None]
"""What the report of a run shows beside its log, and the loss of a network that knows nothing."""


def _nothing(_folder: Path, _settings: Any) -> Shown:
    return [], None


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
