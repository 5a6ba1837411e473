"""Every training task, one row each; the command line, the Python API, reports and weights read it.

To add a task: write its settings (`settings.py`), a file with its recipe beside `pretrain.py`, and a row here.
No torch in this file: a task's recipe is imported when the task runs, so that `--help` is instant.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomae2 import config
from videomae2.engine.run import Metric
from videomae2.errors import UserError
from videomae2.settings import FinetuneSettings, PretrainSettings


@dataclass(frozen=True)
class TaskRow:
    """What the package must know of a task.

    title: what reports call it. summary: what it does, for `--help`. settings: a frozen dataclass with at
    least the sections model, data, optim and run. recipe: "module:name" of its `Recipe`, or the recipe itself.
    kind: what its weights are (a key of `NETWORKS` in `train.py`). best: the number of its evaluation by which
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
}


def task_of(settings: Any) -> str:
    """The name of the task whose settings these are."""
    for name, row in TASKS.items():
        if type(settings) is row.settings:
            return name
    known = ", ".join(row.settings.__name__ for row in TASKS.values())
    raise UserError(f"expected settings of a task ({known}), got {type(settings).__name__}")


def run_settings(folder: str | Path) -> Any:
    """The settings that a run's config.toml replays; UserError where there is no run of a task of the table."""
    page = Path(folder) / "config.toml"
    if not page.is_file():
        raise UserError(
            f"{folder} holds no run (no config.toml); give the folder that a run was given as --out"
        )
    text = page.read_text(encoding="utf-8")
    kinds = {row.settings.__name__: row.settings for row in TASKS.values()}
    for name, kind in kinds.items():
        if text.partition("\n")[0].endswith(f"run of {name}"):
            return config.from_toml(kind, text, str(page))
    raise UserError(
        f"{page} does not say which kind of run it is (its first line names one of {', '.join(kinds)})"
    )
