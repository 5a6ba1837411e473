"""Every training task, one row each; and the one way in which all of them run.

To add a task: write its settings (`settings.py`), its task object and what prepares it (a file beside
`pretrain.py`), and add a row. The command line, the Python API, reports and weights read the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from videomae2 import config
from videomae2.config import check
from videomae2.data.clips import TargetReader, no_target, read_class
from videomae2.engine.loop import train
from videomae2.engine.progress import say
from videomae2.engine.run import RunFolder
from videomae2.engine.task import Job, Metric
from videomae2.errors import UserError
from videomae2.heads.classify import build_classifier
from videomae2.models.build import build_autoencoder, build_encoder
from videomae2.recipes.feed import TrainingFeed, training_feed
from videomae2.recipes.finetune import prepare_finetuning
from videomae2.recipes.pretrain import prepare_pretraining
from videomae2.recipes.weights import Prepared
from videomae2.settings import FinetuneSettings, ModelSettings, PretrainSettings
from videomae2.weights import Checkpoint


@dataclass(frozen=True)
class TaskRow:
    """What the package must know of a task.

    title: what reports call it. settings: a frozen dataclass with at least the sections model, data, optim
    and run. prepare: from settings and training data to a task with initial weights. best: the number of its
    evaluation by which the best checkpoint is chosen. kind: what its weights are (a key of `NETWORKS`).
    frames: how training frames are sampled, as in pre-training or as in fine-tuning (released). read_target:
    what a row of the training manifest is labelled with, the `target` of its batches.
    """

    title: str
    settings: type[Any]
    prepare: Callable[[Any, TrainingFeed], Prepared]
    best: Metric
    kind: str
    frames: Literal["pretrain", "finetune"]
    read_target: TargetReader = no_target


TASKS: dict[str, TaskRow] = {
    "pretrain": TaskRow(
        title="Pre-training",
        settings=PretrainSettings,
        prepare=prepare_pretraining,
        best=Metric("loss", higher_is_better=False),
        kind="pretrain",
        frames="pretrain",
    ),
    "finetune": TaskRow(
        title="Fine-tuning",
        settings=FinetuneSettings,
        prepare=prepare_finetuning,
        best=Metric("top1"),
        kind="classifier",
        frames="finetune",
        read_target=read_class,
    ),
}


NETWORKS: dict[str, Callable[[ModelSettings, Checkpoint], nn.Module]] = {
    "pretrain": lambda settings, checkpoint: build_autoencoder(settings),
    "classifier": lambda settings, checkpoint: build_classifier(settings, checkpoint.num_classes or 0),
    "encoder": lambda settings, checkpoint: build_encoder(
        settings, final_norm="encoder.norm.weight" in checkpoint.state
    ),
}
"""Which network each kind of weights fills."""


def task_of(settings: Any) -> str:
    """The name of the task whose settings these are."""
    for name, row in TASKS.items():
        if type(settings) is row.settings:
            return name
    known = ", ".join(row.settings.__name__ for row in TASKS.values())
    raise UserError(f"expected settings of a task ({known}), got {type(settings).__name__}")


def run_settings(folder: str | Path) -> Any:
    """The settings that a run's config.toml replays. UserError: no run there, or one of no task in the
    table.
    """
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


def run_task(settings: Any, wrap: Callable[[nn.Module], nn.Module] | None = None) -> Path:
    """Train to the end of the plan, resuming where an earlier start left off; the run's folder comes back.

    The folder ends with `model.safetensors` (averaged weights where an average was kept), which says what its
    user must know. UserError for anything in the settings, the data or the initial weights that cannot work,
    before the folder is touched. `wrap` spreads the network over processes in another way than DDP.
    """
    name = task_of(settings)
    row = TASKS[name]
    check(settings)
    sections = (settings.data, settings.model, settings.optim, settings.run)
    feed = training_feed(*sections, row.frames, row.read_target)
    plan = feed.plan()
    prepared = row.prepare(settings, feed)
    folder = RunFolder.shared(settings.run.out, settings)
    for note in prepared.notes:
        say(note)
    job = Job(
        name=name,
        batches=feed,
        plan=plan,
        optim=settings.optim,
        run=settings.run,
        folder=folder,
        best=row.best,
        evaluates=bool(settings.data.val),
        wrap=wrap,
        about=prepared.about.as_json(),
        finish=prepared.about.writer(folder.path),
    )
    train(prepared.task, job)
    return folder.path
