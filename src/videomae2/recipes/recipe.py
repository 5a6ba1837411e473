"""What the file of a training task provides: how its data are read, and how its task is prepared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from videomae2.data.clips import TargetReader, no_target
from videomae2.engine.task import Task
from videomae2.recipes.feed import TrainingFeed
from videomae2.recipes.weights import About


@dataclass(frozen=True)
class Prepared:
    """A task whose network has its initial weights, what those weights must carry, and what to say of them."""

    task: Task
    about: About
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How a task is made of its settings.

    prepare: from settings and training data to a task with initial weights; UserError for what cannot work.
    frames: how training frames are sampled, as in pre-training or as in fine-tuning (released). read_target:
    what a row of the training manifest is labelled with, the `target` of the task's batches.
    """

    prepare: Callable[[Any, TrainingFeed], Prepared]
    frames: Literal["pretrain", "finetune"] = "finetune"
    read_target: TargetReader = no_target
