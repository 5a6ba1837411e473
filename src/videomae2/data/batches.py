"""From a dataset of clips to batches.

The batch's number and the seed decide what is in it; the number of workers and of processes decides nothing.
"""

import logging
import math
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

ASKED_BEFORE_JUDGING = 20
"""Rows read before the share of broken ones can stop a run; nothing but broken rows stops it at once."""


@runtime_checkable
class TrainingDataset(Protocol):
    """What `training_batches` reads: `TrainingClips`, or anything shaped like it."""

    max_broken: float

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


def batches_per_epoch(num_rows: int, batch_size: int, world_size: int = 1) -> int:
    """Batches of one epoch of each process, at least 1: the last, partial global batch is dropped."""
    if num_rows < 1 or batch_size < 1 or world_size < 1:
        raise UserError(
            f"expected at least 1 row, batch size and process, got {num_rows}, {batch_size}, {world_size}"
        )
    return max(1, num_rows // (batch_size * world_size))


@dataclass(frozen=True)
class TrainingOrder:
    """Which (epoch, row) each batch holds, endlessly, from batch `start` on: a function of these numbers.

    A global batch is a run of the epoch's order; process `rank` takes every `world_size`-th row of it, so
    that all processes together read the same rows however many they are (for the same global batch). Where a
    global batch is larger than the data, the order repeats itself until the batch is full.
    """

    num_rows: int
    batch_size: int
    seed: int
    start: int = 0
    rank: int = 0
    world_size: int = 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = batches_per_epoch(self.num_rows, self.batch_size, self.world_size)
        epoch, place = divmod(self.start, per_epoch)
        whole = self.batch_size * self.world_size
        # Data smaller than a global batch counts several orders as one epoch, each with its own epoch number,
        # so that the same video twice in a batch is another window and another crop.
        copies = -(-whole // self.num_rows)
        while True:
            rows = np.concatenate(
                [epoch_order(self.num_rows, self.seed, epoch * copies + copy) for copy in range(copies)]
            )
            for first in range(place * whole, per_epoch * whole, whole):
                spots = range(first + self.rank, first + whole, self.world_size)
                yield [(epoch * copies + spot // self.num_rows, int(rows[spot])) for spot in spots]
            epoch, place = epoch + 1, 0

    def repeats(self) -> np.ndarray:
        """How often the row of each place came before in its global batch; 0 unless data are smaller."""
        return np.arange(self.rank, self.batch_size * self.world_size, self.world_size) // self.num_rows


def training_batches(
    dataset: TrainingDataset,
    *,
    batch_size: int,
    seed: int,
    start_batch: int = 0,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin: bool = False,
) -> Generator[Batch[Target], None, None]:
    """Training batches without end, from batch `start_batch` of this process on.

    `batch_size` counts videos of one process; a batch has views x batch_size clips, the views of a video side
    by side (as released); those of a row's repeats in a batch are numbered on, so that each draws its own
    mask. Broken rows come replaced and named in `failures`; UserError when more than the
    dataset's `max_broken` of the rows asked for are broken, or a whole batch is. Closing the iterator ends
    its workers.
    """
    order = TrainingOrder(len(dataset), batch_size, seed, start_batch, rank, world_size)
    if len(dataset) < batch_size * world_size:
        _log.warning(
            "%d videos are fewer than a batch of %d: videos repeat within a batch",
            len(dataset),
            batch_size * world_size,
        )
    broken = _BrokenShare(dataset.max_broken, len(dataset))
    per_epoch = batches_per_epoch(len(dataset), batch_size, world_size)
    for number, parcel in enumerate(collated(dataset, order, _collate_training, workers, pin), start_batch):
        broken.count(parcel)
        assert parcel.batch is not None
        view = _numbered_on(parcel.batch.view, order.repeats())
        yield replace(parcel.batch, epoch=number // per_epoch, view=view)


def evaluation_batches(
    dataset: EvaluationDataset,
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin: bool = False,
) -> Generator[Batch[Target], None, None]:
    """Every row once, in order: process `rank` reads each `world_size`-th row; none is padded or read twice.

    `batch_size` counts videos; all views of a video stay together, clip-major. A row that could not be read
    is in `failures` and nowhere else; a batch in which none could has no clips and
    is Unlabelled.
    """
    rows = range(rank, len(dataset), world_size)
    batches = [list(rows[first : first + batch_size]) for first in range(0, len(rows), batch_size)]
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


class _BrokenShare:
    """Counts rows read and rows broken since the run started or resumed, and stops it above a share.

    Until every row could have been asked for once, the share is an estimate: it must then lie above `most` by
    three of its standard deviations, so that two broken files early in a large set do not end a run that may
    go on.
    """

    def __init__(self, most: float, num_rows: int) -> None:
        self.most = most
        self.num_rows = num_rows
        self.asked = 0
        self.broken = 0
        self.first: dict[int, Failure] = {}

    def count(self, parcel: _Parcel) -> None:
        """Add a batch; UserError that names share, threshold and the first failures when it is too much."""
        self.asked += parcel.asked
        self.broken += len(parcel.failures)
        for failure in parcel.failures:
            if len(self.first) < 3:
                self.first.setdefault(failure.row, failure)
        if self._too_many() or parcel.batch is None:
            named = "; ".join(f"row {f.row}, {f.path}: {f.reason}" for f in self.first.values())
            raise UserError(
                f"{self.broken} of {self.asked} videos asked for could not be read "
                f"({self.broken / self.asked:.0%}), and max_broken is {self.most:.0%}; first failures: "
                f"{named}; mend or remove them (videomae2 data check names all), or raise data.max_broken"
            )

    def _too_many(self) -> bool:
        if self.broken == self.asked:
            return True
        expected, spread = self.most * self.asked, 0.0
        if self.asked < self.num_rows:
            spread = math.sqrt(max(expected * (1 - self.most), 0.0))  # of a binomial count
        return self.asked >= ASKED_BEFORE_JUDGING and self.broken > expected + 3 * spread


def _numbered_on(view: Int64[torch.Tensor, "B"], repeats: np.ndarray) -> Int64[torch.Tensor, "B"]:
    """The numbers of views, going on where a batch repeats a row: no two clips of a row have the same."""
    if not repeats.any():
        return view
    views = len(view) // len(repeats)
    return view + torch.from_numpy(repeats).repeat_interleave(views) * views


def _collate_training(items: list[list[Clip] | list[Failure]]) -> _Parcel:
    clips: list[Clip] = []
    failures: list[Failure] = []
    asked, stuck = 0, False
    for item in items:
        read = [clip for clip in item if isinstance(clip, Clip)]
        broken = [thing for thing in item if isinstance(thing, Failure)]
        broken += [failure for clip in read for failure in clip.failures]
        clips += read
        failures += broken
        # Every row that was tried counts: the broken ones and the one that took their place.
        asked += len(broken) + bool(read)
        stuck |= not read
    # A row that broke twice in a batch is named once in its record; the share above counts it twice.
    unique = tuple({failure.row: failure for failure in failures}.values())
    return _Parcel(None if stuck else _batch(clips, unique), asked, tuple(failures))


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
