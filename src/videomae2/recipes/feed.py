"""From data settings to batches, and the interface of a training method: `Recipe`.

A recipe says how its data are sampled and labelled, and how its task is built.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from videomae2.architecture import token_grid
from videomae2.bounds import shown
from videomae2.data.batches import evaluation_batches, training_batches
from videomae2.data.clips import EvaluationClips, TargetReader, TrainingClips, no_target
from videomae2.data.sampling import SAMPLERS, RandomWindow, Sampler
from videomae2.data.tables.formats import ROW_COLUMNS
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
from videomae2.weights import match_classes
from videomae2.weights.classes import origin_of

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
        """What the list of videos is, whatever file it came from: its classes and a hash of its rows.

        Rows count as they are listed, before the root, so that a data set may be moved.
        """
        manifest = self.clips.manifest
        return {"classes": list(manifest.class_names), "rows (SHA-256)": hash_of_rows(manifest)}

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

    def labels(self, class_names: tuple[str, ...], match: str = "names") -> torch.Tensor:
        """Labels int64 [M] in the order of `class_names`, matched by name where the manifest has names too.

        Spaces and underscores are alike, and so are cases. UserError where the manifest has no labels, or a
        class that is not in `class_names`, or where these are made up and only `match` "order" can help.
        """
        # By name, because numbers depend on the data at hand: in a folder of class folders that lacks one
        # class, every later class has another number, and accuracy would drop without an error.
        self.manifest.must_be_labelled("measuring accuracy")
        labels = torch.tensor(self.manifest.labels())
        own = tuple(self.manifest.class_names)
        counted = tuple(str(number) for number in range(len(class_names)))
        if match == "order" or not class_names:
            return labels
        if own and origin_of(class_names) == "generated" and origin_of(own) == "given":
            raise UserError(
                f"the network calls its {len(class_names)} classes {class_names[0]}, {class_names[-1]} and "
                "the "
                f"like, which does not say which of them is {shown(own[0])}; where the videos' {len(own)} "
                "classes, "
                f"sorted, are the network's in this order, add --match order"
            )
        if not own and class_names != counted and all(name.isdigit() for name in class_names):
            named = [str(label) for label in labels.tolist()]  # of classes 2, 5, 10, a list's 5 is the second
        else:
            named = [own[label] for label in labels.tolist()] if own else []
        # Names that only count the classes say nothing where the videos have others.
        if not named or (class_names == counted and not {*named, *own} & set(counted)):
            return labels
        names = sorted({*named, *own})
        places = dict(zip(names, match_classes(class_names, names), strict=True))
        return torch.tensor([places[name] for name in named])


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
    sampler: Sampler = SAMPLERS[data.sampling](model.num_frames)
    # The released loaders differ: pre-training takes frames `stride` apart from a random start, fine-tuning
    # spreads them over a random window.
    if frames == "pretrain" and data.sampling == "dense":
        sampler = RandomWindow(model.num_frames)
    clips = TrainingClips(manifest, data, model.size, sampler, read_target, run.seed)
    _must_be_readable(clips, data.train)
    return TrainingFeed(clips, data, optim, run)


def hash_of_rows(manifest: Manifest) -> str:
    """SHA-256 of the columns that say what is trained on, the same for every form of the list."""
    found = hashlib.sha256()
    for name in (each for each in (*ROW_COLUMNS, *LABELS) if each in manifest.table.column_names):
        column = manifest.table.column(name)
        found.update(f"{name}\n".encode())
        # In pieces: the paths of a million rows as one string would be held several times over.
        for start in range(0, len(column), ROWS_AT_ONCE):
            cells = map(str, column.slice(start, ROWS_AT_ONCE).to_pylist())
            found.update("".join(f"{cell}\n" for cell in cells).encode("utf-8", "surrogateescape"))
    return found.hexdigest()


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


@dataclass(frozen=True)
class Recipe:
    """How a task is built from its settings.

    prepare: maps settings and the training feed to a task with initial weights; UserError for what cannot
    work. frames: how training frames are sampled, as in pre-training or in fine-tuning (released).
    read_target: reads the target of a row of the training manifest, the `target` of the task's batches.
    read: reads the file or folder that `data.train` names as that manifest.
    """

    prepare: Callable[[Any, TrainingFeed], Prepared]
    frames: Literal["pretrain", "finetune"] = "finetune"
    read_target: TargetReader = no_target
    read: ListReader = read_listed
