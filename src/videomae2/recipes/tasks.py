"""The table of training tasks, read by the command line, the Python API, reports and weights.

To add a task, write its settings (`settings.py`), a file with its recipe beside `pretrain.py`, and a row.
This file imports no torch, so that `--help` is instant: a recipe is imported when its task runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomae2 import config
from videomae2.engine.run import Metric
from videomae2.errors import UserError
from videomae2.settings import DetectSettings, FinetuneSettings, LocalizeSettings, PretrainSettings


@dataclass(frozen=True)
class TaskRow:
    """One task of the table.

    title: its name in reports. summary: its line in `--help`. settings: a frozen dataclass with at least the
    sections model, data, optim and run. recipe: "module:name" of its `Recipe`, or the recipe itself. kind:
    the kind of its weights, a key of `NETWORKS` in `train.py`. best: the metric of its evaluation by which
    the best checkpoint is chosen.
    """

    title: str
    summary: str
    settings: type[Any]
    recipe: Any
    kind: str
    best: Metric


TASKS: dict[str, TaskRow] = {
    "pretrain": TaskRow(
        title="Pre-training",
        summary="Pre-train on unlabelled video with dual masking.",
        settings=PretrainSettings,
        recipe="videomae2.recipes.pretrain:RECIPE",
        kind="pretrain",
        best=Metric("loss", higher_is_better=False),
    ),
    "finetune": TaskRow(
        title="Fine-tuning",
        summary="Train a classifier from pre-trained weights (or from scratch); also post-pre-training.",
        settings=FinetuneSettings,
        recipe="videomae2.recipes.finetune:RECIPE",
        kind="classifier",
        best=Metric("top1"),
    ),
    "detect-train": TaskRow(
        title="Spatial action detection",
        summary="Train a detector of who does what, where, from boxes with actions at key frames.",
        settings=DetectSettings,
        recipe="videomae2.recipes.detect:RECIPE",
        kind="detector",
        best=Metric("frame_map"),
    ),
    "localize-train": TaskRow(
        title="Temporal detection",
        summary="Train a detector of segments on features of untrimmed videos.",
        settings=LocalizeSettings,
        recipe="videomae2.recipes.localize:RECIPE",
        kind="localizer",
        best=Metric("mAP"),
    ),
}


def task_of(settings: Any) -> str:
    """The name of the task that takes these settings; UserError where no task does."""
    for name, row in TASKS.items():
        # The exact class: one task's settings may be a subclass of another's.
        if type(settings) is row.settings:
            return name
    known = ", ".join(row.settings.__name__ for row in TASKS.values())
    raise UserError(f"expected settings of a task ({known}), got {type(settings).__name__}")


def run_settings(folder: str | Path) -> Any:
    """The settings in a run's config.toml; UserError where the folder holds no run of a task of the table."""
    page = Path(folder) / "config.toml"
    if not page.is_file():
        raise UserError(
            f"expected the folder of a run, got {folder}, which holds no run (no config.toml); "
            "give the --out of a run"
        )
    text = page.read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    # The first line names the settings class, since the sections alone may be those of several tasks.
    kinds = {row.settings.__name__: row.settings for row in TASKS.values()}
    for name, kind in kinds.items():
        if first.endswith(f"run of {name}"):
            return config.from_toml(kind, text, str(page))
    raise UserError(f"expected one of {', '.join(kinds)} in the first line of {page}, got {first!r}")
