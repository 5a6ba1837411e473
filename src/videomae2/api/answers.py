"""Videos through a network, one or thousands: decoded by loader processes, several a forward, in order.

A video that cannot be read is a `Failure` in the place of its answer.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import torch
from jaxtyping import UInt8
from torch import Tensor

from videomae2.api.views import must_be_views, views_of
from videomae2.data.batches import evaluation_batches
from videomae2.data.clips import EvaluationClips
from videomae2.data.file_names import path_column
from videomae2.data.sampling import SAMPLERS
from videomae2.data.tables.manifest import Manifest
from videomae2.errors import UserError
from videomae2.records import Failure
from videomae2.settings import DataSettings, ModelSettings

Views = UInt8[Tensor, "V T C H W"]

FEW = 4
"""Up to so many files are decoded here: a loader process takes longer to start than they take to read."""


@dataclass(frozen=True)
class Viewing:
    """How videos are shown to a network: the grid and sampling of its weights, and `clips` x `crops` views.

    workers: loader processes; None chooses them by the number of videos and cores.
    """

    model: ModelSettings
    data: DataSettings
    clips: int = 1
    crops: int = 1
    workers: int | None = None


def means_over_views(
    network: Callable[[Views], Tensor], videos: Manifest | Sequence[Any], viewing: Viewing, at_once: int
) -> Iterator[Tensor | Failure]:
    """The mean over its views of what `network` makes of each video, or its failure, in the videos' order.

    videos: a manifest, whose rows may be parts of files; or paths, or frames at hand. A call of `network` has
    about `at_once` views, all those of a video together. UserError for views that cannot be.
    """
    must_be_views(viewing.clips, viewing.crops)
    for group in _groups(videos, viewing, at_once):
        views = [each for each in group if isinstance(each, Tensor)]
        found = network(torch.cat(views)).split([len(each) for each in views]) if views else ()
        means = iter(found)
        for each in group:
            yield each if isinstance(each, Failure) else next(means).mean(0)


def raise_failure(failure: Failure) -> NoReturn:
    """The failure as the error of a caller who did not ask for records."""
    raise UserError(f"{failure.path}: {failure.reason}" if failure.path else failure.reason)


def _groups(
    videos: Manifest | Sequence[Any], viewing: Viewing, at_once: int
) -> Iterator[list[Tensor | Failure]]:
    """The views of each video, a few videos at a time, so that decoded ones do not pile up."""
    if not isinstance(videos, Manifest):
        if not all(isinstance(each, str | Path) for each in videos):
            yield from _of_frames(videos, viewing, at_once)
            return
        paths = path_column([str(each) for each in videos])
        videos = Manifest(pa.table({"path": paths}), where="the list of videos")
    yield from _of_files(videos, viewing, at_once)


def _of_files(manifest: Manifest, viewing: Viewing, at_once: int) -> Iterator[list[Tensor | Failure]]:
    each = viewing.clips * viewing.crops
    sampler = SAMPLERS[viewing.data.sampling](viewing.model.num_frames)
    dataset = EvaluationClips(
        manifest, viewing.data, viewing.model.size, sampler, (viewing.clips, viewing.crops)
    )
    workers = _workers(len(manifest)) if viewing.workers is None else viewing.workers
    first = 0
    for batch in evaluation_batches(dataset, batch_size=max(1, at_once // each), workers=workers):
        failed = {failure.row: failure for failure in batch.failures}
        rows = range(first, first + len(failed) + len(batch) // each)
        first = rows.stop
        there = iter(batch.frames.split(each))
        yield [failed[row] if row in failed else next(there) for row in rows]


def _of_frames(videos: Sequence[Any], viewing: Viewing, at_once: int) -> Iterator[list[Tensor | Failure]]:
    group: list[Tensor | Failure] = []
    for number, video in enumerate(videos):
        try:
            group.append(views_of(video, viewing.model, viewing.data, viewing.clips, viewing.crops))
        except UserError as error:
            group.append(Failure(number, "", str(error)))
        if sum(len(each) for each in group if isinstance(each, Tensor)) >= at_once:
            yield group
            group = []
    yield group


def _workers(videos: int) -> int:
    """Loader processes for so many files: none for a few, or where a process cannot have any."""
    # Where processes are not forked, each would import the user's program again, which may not expect it.
    can_fork = multiprocessing.get_all_start_methods()[0] == "fork"
    if videos <= FEW or not can_fork or multiprocessing.current_process().daemon:
        return 0
    cores = len(os.sched_getaffinity(0))
    return max(1, min(8, cores // 2))
