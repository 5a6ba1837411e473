"""The sequence of every training run: feed, plan, task, folder, training loop, final weights."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from videomae2.architecture import decoder_config, encoder_config
from videomae2.config import check
from videomae2.engine import launch, parallel
from videomae2.engine.loop import train
from videomae2.engine.progress import say
from videomae2.engine.run import RunFolder
from videomae2.engine.schedule import Plan
from videomae2.engine.task import Job
from videomae2.errors import UserError
from videomae2.models import cpu
from videomae2.recipes.feed import Prepared, Recipe, RunFeed, training_feed
from videomae2.recipes.tasks import TASKS, task_of
from videomae2.recipes.weights import read_weights, reading_once
from videomae2.settings import OF_THE_CLIP, OF_THE_DECODER, OF_THE_NETWORK, ModelSettings


def run_task(settings: Any) -> Path:
    """Train to the end of the plan, resuming from the newest checkpoint; returns the run's folder.

    At the end the folder has `model.safetensors` (the averaged weights where an average was kept), with the
    metadata that its user needs. Processes that torchrun or srun started do it jointly, and so do those of a
    group that the caller began. UserError, on all of them and before the folder is touched, for settings,
    data or initial weights that cannot work.
    """
    name = task_of(settings)
    row, recipe = TASKS[name], recipe_of(name)
    check(settings)
    launch.join(settings.run.device)
    settings, feed, plan, prepared = parallel.together(lambda: _prepared(settings, recipe))
    # Last of all, so that whatever was refused above has left no half-made run behind.
    folder = _shared_folder(settings, plan)
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
        origin=f"from {settings.init}" if getattr(settings, "init", "") else Job.origin,
        kernels=cpu.apply,
        max_broken=getattr(settings.data, "max_broken", 0.0),
        about=prepared.about.as_json(),
        identity=feed.identity(),
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


def _prepared(settings: Any, recipe: Recipe) -> tuple[Any, RunFeed, Plan, Prepared]:
    """The settings as the initial weights fix them, and what follows from them; nothing is written."""
    with reading_once():
        settings = inherited(settings)
        sections = (settings.data, settings.model, settings.optim, settings.run)
        # Feed, plan, task: each is checked before the next, and the cheapest mistakes show first.
        if recipe.feed is not None:
            feed: RunFeed = recipe.feed(settings)
        else:
            feed = training_feed(*sections, recipe.frames, read_target=recipe.read_target, read=recipe.read)
        plan = feed.plan()
        return settings, feed, plan, recipe.prepare(settings, feed)


def _shared_folder(settings: Any, plan: Plan) -> RunFolder:
    """The run's folder on every rank; rank 0 creates and locks it, and its UserError is raised on all."""
    # The lock is one process's: where every rank took it, all but one would be refused.
    made: list[RunFolder] = []
    out, derived = settings.run.out, plan.describe()
    parallel.on_main(lambda: made.append(RunFolder.create_or_resume(out, settings, derived)))
    return made[0] if made else RunFolder(Path(settings.run.out), settings)


def inherited(settings: Any) -> Any:
    """Settings whose network is that of the weights in `settings.init`, if there are any.

    A model setting at its default takes the weights' value. UserError, by name, for one that contradicts
    them: a network with another position table or another width would not be the one that was trained.
    """
    # A network without an encoder of its own, such as a temporal detector, has no such settings to take.
    if not getattr(settings, "init", "") or not isinstance(settings.model, ModelSettings):
        return settings
    weights = read_weights(settings.init)
    if weights.settings is None:
        return settings  # of another program, and neither shapes nor configuration say enough
    own, theirs, defaults = settings.model, weights.settings, type(settings)().model
    fixed = [*OF_THE_NETWORK, *(OF_THE_DECODER if weights.kind == "pretrain" else ())]
    changes: dict[str, Any] = {}
    for name in (*fixed, *OF_THE_CLIP):
        here, there = getattr(own, name), getattr(theirs, name)
        if here == there:
            continue
        if here == getattr(defaults, name):
            changes[name] = there
        elif name in fixed and _resolved(own, name) != _resolved(theirs, name):
            raise UserError(
                f"expected model.{name} {there!r}, as in the weights {settings.init}, got {here!r}; leave it "
                "out "
                f"to take the weights' network, or start without --init"
            )
    if changes:
        named = ", ".join(f"{name} {value}" for name, value in changes.items())
        say(f"network of {settings.init}: {named}")
    return replace(settings, model=replace(own, **changes))


def _resolved(model: ModelSettings, name: str) -> Any:
    """A model setting with None replaced by the value of the size table."""
    value = getattr(model, name)
    if value is not None:
        return value
    encoder, decoder = encoder_config(model), decoder_config(model)
    found = {
        "patch": encoder.grid.patch,
        "width": encoder.width,
        "depth": encoder.depth,
        "num_heads": encoder.num_heads,
        "decoder_width": decoder.width,
        "decoder_heads": decoder.num_heads,
    }
    return found[name]
