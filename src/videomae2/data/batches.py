"""From a dataset of clips to batches.

The batch's number and the seed decide what is in it; the number of workers and of processes decides nothing.
"""

import itertools
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64

from videomae2 import chance
from videomae2.data.workers import batch_memory, collated
from videomae2.errors import UserError
from videomae2.labels import Target, Unlabelled
from videomae2.records import Batch, Clip, Failure

_log = logging.getLogger(__name__)


@runtime_checkable
class TrainingDataset(Protocol):
    """What `training_batches` reads: `TrainingClips`, or anything shaped like it."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: tuple[int, int]) -> "list[Clip] | list[Failure]": ...


@runtime_checkable
class EvaluationDataset(Protocol):
    """What `evaluation_batches` reads: `EvaluationClips`, or anything shaped like it."""

    num_frames: int
    size: int

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> "list[Clip] | Failure": ...


def epoch_order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the rows in an epoch: int64 [num_rows], a permutation."""
    return chance.numpy_generator(chance.key(seed, "order of rows", epoch)).permutation(num_rows)


@dataclass(frozen=True)
class TrainingOrder:
    """Which (epoch, row) each batch holds, endlessly, from batch `start` on: a function of these numbers.

    An optimizer step takes a run of the epoch's order: `accumulate` global batches, one behind the other, and
    of each of them process `rank` takes its own run. So the videos of a step are the same however many
    processes and forwards share them. An epoch has a whole number of steps; the rest of its order is dropped.
    Where a step is larger than the data, the order repeats itself until the step is full.
    """

    num_rows: int
    batch_size: int
    seed: int
    start: int = 0
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        counts = (self.num_rows, self.batch_size, self.world_size, self.accumulate)
        if min(counts) < 1:
            raise UserError(
                "expected at least 1 row, batch size, process and forward of a step, got "
                + ", ".join(map(str, counts))
            )

    @property
    def videos_per_step(self) -> int:
        """Videos of one optimizer step, over all processes."""
        return self.batch_size * self.world_size * self.accumulate

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one epoch of each process."""
        return max(1, self.num_rows // self.videos_per_step) * self.accumulate

    def place(self, number: int) -> tuple[int, int]:
        """The epoch of a batch, and the number of its first video in the order of that epoch."""
        epoch, batch = divmod(number, self.batches_per_epoch)
        return epoch, (batch * self.world_size + self.rank) * self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Data smaller than a step counts several orders as one epoch, each with its own epoch number, so that
        # the same video twice in a step is another window and another crop.
        copies = -(-self.videos_per_step // self.num_rows)
        made, rows = -1, np.empty(0, dtype=np.int64)
        for number in itertools.count(self.start):
            epoch, first = self.place(number)
            if epoch != made:
                epochs = range(epoch * copies, (epoch + 1) * copies)
                orders = [epoch_order(self.num_rows, self.seed, each) for each in epochs]
                made, rows = epoch, np.concatenate(orders)
            spots = range(first, first + self.batch_size)
            yield [(epoch * copies + spot // self.num_rows, int(rows[spot])) for spot in spots]

    def repeats(self, number: int) -> np.ndarray:
        """How often the row of each place of a batch came before in its step; 0 unless data are smaller."""
        _, first = self.place(number)
        return np.arange(first, first + self.batch_size) // self.num_rows


def training_batches(
    dataset: TrainingDataset,
    *,
    batch_size: int,
    seed: int,
    start_batch: int = 0,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    pin: bool = False,
) -> Generator[Batch[Target], None, None]:
    """Training batches without end, from batch `start_batch` of this process on.

    `batch_size` counts videos of one process, `accumulate` the batches of one optimizer step; a batch has
    views x batch_size clips, the views of a video side by side (as released); those of a row's repeats in a
    step are numbered on, so that each draws its own mask. Broken rows come replaced, counted in `replaced`
    and named in `failures`; UserError where none of the rows tried for a place could be read. Closing the
    iterator ends its workers.
    """
    order = TrainingOrder(len(dataset), batch_size, seed, start_batch, rank, world_size, accumulate)
    if len(dataset) < order.videos_per_step and rank == 0:
        _log.warning(
            "%d videos are fewer than a batch of %d: videos repeat within a batch",
            len(dataset),
            order.videos_per_step,
        )
    for number, parcel in enumerate(collated(dataset, order, _collate_training, workers, pin), start_batch):
        if parcel.batch is None:
            raise _stuck(parcel)
        epoch, place = order.place(number)
        view = _numbered_on(parcel.batch.view, order.repeats(number))
        yield replace(parcel.batch, epoch=epoch, place=place, view=view)


def evaluation_batches(
    dataset: EvaluationDataset,
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin: bool = False,
) -> Generator[Batch[Target], None, None]:
    """Every row once, in order: process `rank` reads each `world_size`-th batch; nothing is padded.

    `batch_size` counts videos; all views of a video stay together, clip-major. A row that could not be read
    is in `failures` and nowhere else; a batch in which none could has no clips and
    is Unlabelled.
    """
    # Batches and not rows go round the processes, so that a batch is the same whoever reads it: a matmul over
    # another batch would differ in its last bits, and so would the files of an evaluation.
    batches = [
        list(range(first, min(first + batch_size, len(dataset))))
        for first in range(rank * batch_size, len(dataset), batch_size * world_size)
    ]
    collate = _EvaluationCollate((dataset.num_frames, 3, dataset.size, dataset.size))
    for parcel in collated(dataset, batches, collate, workers, pin):
        assert parcel.batch is not None
        yield parcel.batch


@dataclass(frozen=True)
class _Parcel:
    """What a worker sends: a batch, unless a row could not even be replaced, and how many rows were read."""

    batch: Batch[Target] | None
    asked: int
    failures: tuple[Failure, ...]

    def pin_memory(self) -> "_Parcel":
        """The hook by which the loader pins what it hands on."""
        return self if self.batch is None else _Parcel(self.batch.pin_memory(), self.asked, self.failures)


def _numbered_on(view: Int64[torch.Tensor, "B"], repeats: np.ndarray) -> Int64[torch.Tensor, "B"]:
    """The numbers of views, going on where a batch repeats a row: no two clips of a row have the same."""
    if not repeats.any():
        return view
    views = len(view) // len(repeats)
    return view + torch.from_numpy(repeats).repeat_interleave(views) * views


def _collate_training(items: list[list[Clip] | list[Failure]]) -> _Parcel:
    clips: list[Clip] = []
    failures: list[Failure] = []
    asked, replaced, stuck = 0, 0, False
    for item in items:
        read = [clip for clip in item if isinstance(clip, Clip)]
        broken = [thing for thing in item if isinstance(thing, Failure)]
        broken += [failure for clip in read for failure in clip.failures]
        clips += read
        failures += broken
        # Every row that was tried counts: the broken ones and the one that took their place.
        asked += len(broken) + bool(read)
        replaced += bool(broken)
        stuck |= not read
    # A row that broke twice in a batch is named once in its record.
    unique = tuple({failure.row: failure for failure in failures}.values())
    batch = None if stuck else replace(_batch(clips, unique), replaced=replaced)
    return _Parcel(batch, asked, tuple(failures))


LATER = "mend the way to them, and run the same command again: it goes on where it was"
"""What to do about videos that could not be reached."""


def _stuck(parcel: _Parcel) -> UserError:
    broken = len(parcel.failures)
    named = "; ".join(f"row {f.row}, {f.path}: {f.reason}" for f in parcel.failures[:3])
    unreachable = all(failure.kind == "transport" for failure in parcel.failures)
    return UserError(
        f"{broken} of {parcel.asked} videos tried for one batch could not be read "
        f"({broken / parcel.asked:.0%}), and nothing was left to take the place of one; first failures: "
        f"{named}; {LATER if unreachable else 'mend or remove them (videomae2 data check names all)'}"
    )


@dataclass(frozen=True)
class _EvaluationCollate:
    """Makes a batch of what evaluation reads; `clip_shape` is that of a batch without clips."""

    clip_shape: tuple[int, int, int, int]

    def __call__(self, items: list[list[Clip] | Failure]) -> _Parcel:
        failures = tuple(item for item in items if isinstance(item, Failure))
        clips = [clip for item in items if not isinstance(item, Failure) for clip in item]
        if clips:
            return _Parcel(_batch(clips, failures), len(items), failures)
        none = torch.zeros(0, dtype=torch.int64)
        frames = torch.zeros((0, *self.clip_shape), dtype=torch.uint8)
        return _Parcel(Batch(frames, none, none, Unlabelled(0), failures=failures), len(items), failures)


def _batch(clips: list[Clip], failures: tuple[Failure, ...]) -> Batch[Target]:
    row, view = (torch.tensor([getattr(clip, name) for clip in clips]) for name in ("row", "view"))
    memory = batch_memory((len(clips), *clips[0].frames.shape))
    frames = torch.stack([clip.frames for clip in clips], out=memory)
    target = type(clips[0].target).stack([clip.target for clip in clips])
    placements = tuple(clip.placement for clip in clips if clip.placement is not None)
    return Batch(frames, row, view, target, failures=failures, placements=placements)
