"""The interface of a training method: how its data are sampled, and how its task is built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from videomae2.data.clips import TargetReader, no_target
from videomae2.engine.task import Task
from videomae2.recipes.feed import TrainingFeed
from videomae2.recipes.weights import About


@dataclass(frozen=True)
class Prepared:
    """A task with initial weights, the description saved with its weights, and notes to print."""

    task: Task
    about: About
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How a task is built from its settings.

    prepare: maps settings and the training feed to a task with initial weights; UserError for what cannot
    work. frames: how training frames are sampled, as in pre-training or in fine-tuning (released).
    read_target: reads the target of a row of the training manifest, the `target` of the task's batches.
    """

    prepare: Callable[[Any, TrainingFeed], Prepared]
    frames: Literal["pretrain", "finetune"] = "finetune"
    read_target: TargetReader = no_target
