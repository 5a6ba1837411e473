"""The sequence of every training run: feed, plan, task, folder, training loop, final weights."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from videomae2.config import check
from videomae2.engine import parallel
from videomae2.engine.loop import train
from videomae2.engine.progress import say
from videomae2.engine.run import RunFolder
from videomae2.engine.task import Job
from videomae2.heads.classify import build_classifier
from videomae2.heads.pooled import headless_network
from videomae2.models import cpu
from videomae2.models.build import build_autoencoder
from videomae2.recipes.feed import training_feed
from videomae2.recipes.recipe import Recipe
from videomae2.recipes.tasks import TASKS, task_of
from videomae2.settings import ModelSettings
from videomae2.weights import Checkpoint

NETWORKS: dict[str, Callable[[ModelSettings, Checkpoint], nn.Module]] = {
    "pretrain": lambda settings, _: build_autoencoder(settings),
    "classifier": lambda settings, checkpoint: build_classifier(settings, checkpoint.num_classes or 0),
    "encoder": headless_network,
}
"""Kind of weights -> the network that they are loaded into."""


def run_task(settings: Any, wrap: Callable[[nn.Module], nn.Module] | None = None) -> Path:
    """Train to the end of the plan, resuming from the newest checkpoint; returns the run's folder.

    At the end the folder has `model.safetensors` (the averaged weights where an average was kept), with the
    metadata that its user needs. UserError, before the folder is touched, for settings, data or initial
    weights that cannot work. `wrap` distributes the network in another way than DDP.
    """
    name = task_of(settings)
    row, recipe = TASKS[name], recipe_of(name)
    check(settings)
    sections = (settings.data, settings.model, settings.optim, settings.run)
    # Feed, plan, task, folder: each is checked before the next, and the cheapest mistakes show first.
    feed = training_feed(*sections, recipe.frames, read_target=recipe.read_target)
    plan = feed.plan()
    prepared = recipe.prepare(settings, feed)
    # Last of all, so that whatever was refused above has left no half-made run behind.
    folder = _shared_folder(settings)
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
        kernels=cpu.apply,
        wrap=wrap,
        about=prepared.about.as_json(),
        finish=prepared.about.writer(folder.path),
    )
    train(prepared.task, job)
    return folder.path


def recipe_of(name: str) -> Recipe:
    """The recipe of a task of the table, imported now where its row holds only the name."""
    named: Recipe | str = TASKS[name].recipe
    if not isinstance(named, str):
        return named
    module, _, attribute = named.partition(":")
    recipe: Recipe = getattr(import_module(module), attribute)
    return recipe


def _shared_folder(settings: Any) -> RunFolder:
    """The run's folder on every rank; rank 0 creates and locks it, and its UserError is raised on all."""
    # The lock is one process's: where every rank took it, all but one would be refused.
    made: list[RunFolder] = []
    parallel.on_main(lambda: made.append(RunFolder.create_or_resume(settings.run.out, settings)))
    return made[0] if made else RunFolder(Path(settings.run.out), settings)
