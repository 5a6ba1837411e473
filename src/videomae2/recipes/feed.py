"""From data settings to batches, and the interface of a training method: `Recipe`.

A recipe says how its data are sampled and labelled, and how its task is built.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import pyarrow.compute as pc
import torch

from videomae2.architecture import token_grid
from videomae2.bounds import shown
from videomae2.data.batches import evaluation_batches, training_batches
from videomae2.data.clips import EvaluationClips, TargetReader, TrainingClips, no_target
from videomae2.data.file_names import path_text
from videomae2.data.sampling import SAMPLERS, RandomWindow, Sampler
from videomae2.data.tables.formats import INTEGERS, MOMENTS, ROW_COLUMNS, TEXTS
from videomae2.data.tables.manifest import Manifest, read_listed
from videomae2.engine import parallel
from videomae2.engine.device import choose_device
from videomae2.engine.progress import progress
from videomae2.engine.schedule import Plan, make_plan
from videomae2.engine.task import Task
from videomae2.errors import UserError
from videomae2.recipes.weights import About
from videomae2.records import Batch, Failure
from videomae2.settings import DataSettings, ModelSettings, OptimSettings, RunSettings
from videomae2.weights.classes import are_numbers, numbers_of, origin_of

ListReader = Callable[[str, Any], Manifest]
"""What reads the rows of a list: (what `data.train` or `data.val` names, data settings) -> a manifest."""
LABELS = ("boxes", "actions", "owners")
"""Columns of labels that are no class number, which the hash of a list counts too."""
ROWS_AT_ONCE = 65_536
"""Rows of a list that are hashed at once."""


@dataclass(frozen=True)
class TrainingFeed:
    """Endless training batches from any batch number on, and the plan that follows from their number."""

    clips: TrainingClips
    data: DataSettings
    optim: OptimSettings
    run: RunSettings
    read: ListReader = read_listed

    def __call__(self, start_batch: int) -> Iterator[Batch[Any]]:
        """This rank's batches from `start_batch` on."""
        return training_batches(
            self.clips,
            batch_size=self.optim.batch_size,
            seed=self.run.seed,
            start_batch=start_batch,
            workers=self.data.workers,
            rank=parallel.rank(),
            world_size=parallel.world_size(),
            accumulate=self.optim.accumulate,
            pin=choose_device(self.run.device).type == "cuda",
        )

    def identity(self) -> dict[str, Any]:
        """What the lists of videos are, whatever files they came from: classes, and hashes of their rows.

        Rows count as they are listed, before the root, so that a data set may be moved. The held-out ones
        belong to it, since the best checkpoint is chosen by them.
        """
        manifest = self.clips.manifest
        found = {"classes": list(manifest.class_names), "rows (SHA-256)": hash_of_rows(manifest)}
        if self.data.val:
            found["held-out rows (SHA-256)"] = hash_of_rows(self.read(self.data.val, self.data))
        return found

    def plan(self) -> Plan:
        """The run's schedule, in optimizer steps."""
        # Without held-out videos nothing can be evaluated, whatever the setting says.
        run = self.run if self.data.val else replace(self.run, evaluate_every=0)
        return make_plan(self.optim, run, len(self.clips), self.data.repeated_views, parallel.world_size())


@dataclass(frozen=True)
class EvaluationFeed:
    """Every row of a manifest once, with `views` = (clips, crops) of each from one decode.

    `blank` stands in on ranks that have fewer batches than others (`parallel.in_step`).
    """

    # Never padded to equal numbers of batches over the ranks, as distributed samplers do: a mean loss would
    # count the repeated clips twice, and its value would depend on the world size.

    manifest: Manifest
    data: DataSettings
    model: ModelSettings
    views: tuple[int, int]
    batch_size: int = 1
    pin: bool = False

    def __iter__(self) -> Iterator[Batch[Any]]:
        # Built anew for each pass: an evaluation during training must not depend on how far the last one got.
        sampler = SAMPLERS[self.data.sampling](self.model.num_frames)
        clips = EvaluationClips(self.manifest, self.data, self.model.size, sampler, self.views)
        batches = evaluation_batches(
            clips,
            batch_size=self.batch_size,
            workers=self.data.workers,
            rank=parallel.rank(),
            world_size=parallel.world_size(),
            pin=self.pin,
        )
        size, rows = self.batch_size, len(self.manifest)
        starts = range(parallel.rank() * size, rows, parallel.world_size() * size)
        with progress("evaluate", sum(min(size, rows - start) for start in starts)) as done:
            for batch in batches:
                yield batch  # and when the next one is asked for, it has been through the network
                done.advance(len(batch.row.unique()) + len(batch.failures))

    @property
    def blank(self) -> torch.Tensor:
        """One black clip, uint8 [1, T, C, H, W], of the network's input shape."""
        shape = (1, self.model.num_frames, 3, self.model.size, self.model.size)
        return torch.zeros(shape, dtype=torch.uint8)

    def labels(
        self, class_names: tuple[str, ...], num_classes: int, match: str = "names", names_from: str = ""
    ) -> torch.Tensor:
        """Labels int64 [M] as a network's class numbers, matched by name where the manifest has names.

        The network has `num_classes` classes with `class_names` (none: they have no names), which came from
        `names_from`, by default what they look like. Spaces and underscores are alike, and so are cases.
        `match` "order" takes the manifest's own numbers. UserError where the manifest has no labels, a class
        that the network does not have, or names where the network's say nothing.
        """
        # By name, because numbers depend on the data at hand: in a folder of class folders that lacks one
        # class, every later class has another number, and accuracy would drop without an error.
        self.manifest.must_be_labelled("measuring accuracy")
        labels, names = torch.tensor(self.manifest.labels()), self.manifest.class_names
        # Of classes named 2, 5 and 10, a list's 5 is the second.
        if match == "order" or not (names or are_numbers(class_names)):
            return labels
        used = labels.unique().tolist()
        theirs = [names[label] if names else str(label) for label in used]
        places = torch.zeros(max(used) + 1, dtype=torch.int64)
        places[used] = torch.tensor(
            numbers_of(theirs, class_names, num_classes, names_from or origin_of(class_names))
        )
        return places[labels]


def training_feed(
    data: DataSettings,
    model: ModelSettings,
    optim: OptimSettings,
    run: RunSettings,
    frames: Literal["pretrain", "finetune"],
    *,
    read_target: TargetReader = no_target,
    read: ListReader = read_listed,
) -> TrainingFeed:
    """The feed of a run's training manifest.

    frames: how they are sampled, as in pre-training or in fine-tuning (released). read_target: reads the
    target of a row, `read` the list of rows. UserError where nothing can be trained, before anything is
    written.
    """
    if not data.train:
        raise UserError(
            "expected training videos, got none; name a manifest, a list or a folder with --data.train"
        )
    # Checked first because it needs no data, whose reading may take minutes: a grid that the size does not
    # divide into, a device that is not there.
    token_grid(model)
    choose_device(run.device)
    manifest = read(data.train, data)
    if manifest.first_label != data.first_label and (manifest.labels() >= 0).any():
        raise UserError(
            f"expected labels that are numbers, since data.first_label is {data.first_label}, got names such "
            f"as {shown(manifest.class_names[0])} in {data.train}; leave --data.first_label out"
        )
    sampler: Sampler = SAMPLERS[data.sampling](model.num_frames)
    # The released loaders differ: pre-training takes frames `stride` apart from a random start, fine-tuning
    # spreads them over a random window.
    if frames == "pretrain" and data.sampling == "dense":
        sampler = RandomWindow(model.num_frames)
    clips = TrainingClips(manifest, data, model.size, sampler, read_target, run.seed)
    _must_be_readable(clips, data.train)
    return TrainingFeed(clips, data, optim, run, read)


def hash_of_rows(manifest: Manifest) -> str:
    """SHA-256 of the columns that say what is trained on, the same for every form of the list.

    A column that says nothing, as each of its cells is what an absent one means, is not there.
    """
    found, table = hashlib.sha256(), manifest.table
    nothing = {**INTEGERS, **MOMENTS, **TEXTS}
    for name in (each for each in (*ROW_COLUMNS, *LABELS) if each in table.column_names):
        column = table.column(name)
        if name in nothing and pc.all(pc.equal(column, nothing[name])).as_py():
            continue
        found.update(f"{name}\n".encode())
        # In pieces: the paths of a million rows as one string would be held several times over.
        for start in range(0, len(column), ROWS_AT_ONCE):
            cells = map(_text_of, column.slice(start, ROWS_AT_ONCE).to_pylist())
            found.update("".join(f"{cell}\n" for cell in cells).encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def _text_of(cell: Any) -> str:
    return path_text(cell) if isinstance(cell, bytes) else str(cell)


def _must_be_readable(clips: TrainingClips, name: str) -> None:
    """UserError where none of several videos can be read; most often the root folder is wrong."""
    # The first training row already tries others in place of one that fails, so it stands for several.
    failures = [each for each in clips[0, 0] if isinstance(each, Failure)]
    if failures:
        # The first three show the pattern; most often it is one wrong prefix of all paths.
        named = "; ".join(f"row {each.row}, {each.path}: {each.reason}" for each in failures[:3])
        raise UserError(
            f"none of {len(failures)} videos tried of {name} could be read; the first failures: {named}; "
            "mend the paths or --data.root (videomae2 data check names all broken files)"
        )


def evaluation_feed(
    data: DataSettings,
    model: ModelSettings,
    views: tuple[int, int] = (1, 1),
    batch_size: int = 1,
    device: str = "auto",
) -> EvaluationFeed:
    """The feed of the manifest `data.val`; by default one centre view of each video."""
    if not data.val:
        raise UserError(
            "expected videos to evaluate, got none; name a manifest, a list or a folder with --data.val"
        )
    if min(views) < 1:
        raise UserError(
            f"expected at least one view of each video, got {views[0]} clips x {views[1]} crops; try 1 and 1"
        )
    manifest = read_listed(data.val, data)
    return EvaluationFeed(manifest, data, model, views, batch_size, choose_device(device).type == "cuda")


def held_out_feed(
    data: DataSettings, model: ModelSettings, batch_size: int, device: str
) -> EvaluationFeed | None:
    """The feed of evaluations during training: one centre view a row of `data.val`; None without it."""
    return evaluation_feed(data, model, (1, 1), batch_size, device) if data.val else None


@dataclass(frozen=True)
class Prepared:
    """A task with initial weights, the description saved with its weights, and notes to print."""

    task: Task
    about: About
    notes: tuple[str, ...] = ()


@runtime_checkable
class RunFeed(Protocol):
    """What a run is fed from: batches from any number on, their schedule, and what they are made of."""

    def __call__(self, start_batch: int) -> Iterator[Any]:
        """This rank's batches from `start_batch` on: records with `epoch`, `failures`, a length and `to`."""
        ...

    def plan(self) -> Plan:
        """The run's schedule, in optimizer steps."""
        ...

    def identity(self) -> dict[str, Any]:
        """Plain JSON that a resumed run must share."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How a task is built from its settings.

    prepare: maps settings and the training feed to a task with initial weights; UserError for what cannot
    work. frames: how training frames are sampled, as in pre-training or in fine-tuning (released).
    read_target: reads the target of a row of the training manifest, the `target` of the task's batches.
    read: reads the file or folder that `data.train` names as that manifest.
    feed: makes the feed of settings whose batches hold no clips; None: clips of the manifest `data.train`.
    """

    prepare: Callable[[Any, Any], Prepared]
    frames: Literal["pretrain", "finetune"] = "finetune"
    read_target: TargetReader = no_target
    read: ListReader = read_listed
    feed: Callable[[Any], RunFeed] | None = None
