"""From a manifest row to clips: sample, decode once, transform every view; a broken row becomes a record,
never a crash.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from videomae2 import chance
from videomae2.data import sampling
from videomae2.data.augment.crops import TrainingTransform, joined, resize_short_side, view_crops
from videomae2.data.tables.manifest import Manifest
from videomae2.data.window import read_window
from videomae2.errors import RowError, UserError
from videomae2.records import Clip, Failure
from videomae2.settings import DataSettings

REPLACEMENT_TRIES = 10
"""Rows tried for one place, the first included, before the place is given up."""


class TrainingClips:
    """Training views by (epoch, row): `data.repeated_views` of them from one decode of the row's video.

    All views show the same frames, each with its own crop and augmentation (released, for pre-training and
    fine-tuning alike). A row that cannot be read is replaced by another one, chosen by (seed, epoch, row),
    and named in the first clip's `failures`; after ten such rows only the failures come back. Everything
    random follows from (seed, epoch, row, view). UserError for rows without a label where `kind` is finetune.
    """

    def __init__(  # noqa: PLR0917
        self,
        manifest: Manifest,
        data: DataSettings,
        num_frames: int,
        size: int,
        seed: int = 0,
        kind: Literal["pretrain", "finetune"] = "pretrain",
    ) -> None:
        if data.repeated_views < 1:
            raise UserError(
                f"repeated_views is {data.repeated_views}, but each video gives at least 1 view; try 1"
            )
        if kind == "finetune":
            manifest.must_be_labelled("fine-tuning")
        self.manifest = manifest
        self.data = data
        self.num_frames = num_frames
        self.size = size
        self.seed = seed
        self.kind = kind
        self.max_broken = data.max_broken
        self.transform = TrainingTransform(data, size)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, place: tuple[int, int]) -> list[Clip] | list[Failure]:
        """The views of one row in one epoch, or the failures of every row that was tried."""
        epoch, asked = place
        failures: list[Failure] = []
        for row in self._candidates(epoch, asked):
            with _named(self.manifest, row):
                made = self._views(epoch, row)
                if isinstance(made, Failure):
                    failures.append(made)
                    continue
            return [replace(made[0], failures=tuple(failures)), *made[1:]]
        return failures

    def _candidates(self, epoch: int, asked: int) -> Iterator[int]:
        """The row that is asked for, then others that may replace it, none twice."""
        yield asked
        rng = chance.numpy_generator(chance.key(self.seed, "replacement", epoch, asked))
        tried = {asked}
        while len(tried) < min(REPLACEMENT_TRIES, len(self)):
            row = int(rng.integers(len(self)))
            if row not in tried:
                tried.add(row)
                yield row

    def _views(self, epoch: int, row: int) -> list[Clip] | Failure:
        keys = [
            chance.key(self.seed, "transform", epoch, row, view) for view in range(self.data.repeated_views)
        ]
        views = [self.transform.view(chance.numpy_generator(key)) for key in keys]

        def shrink(pictures: Tensor) -> list[Tensor]:
            # before RandAugment all views want the same of a picture
            return [view.shrink(pictures) for view in (views[:1] if self.transform.augment else views)]

        draw = self._draw(epoch, row)
        bound = self.transform.short_side_at_most
        read = read_window(self.manifest, row, self.data, draw, shrink, short_side_at_most=bound)
        if isinstance(read, Failure):
            return read
        label = self.manifest.row(row).label
        clips = []
        for number, view in enumerate(views):
            clips.append(
                Clip(
                    view.clip(
                        read.parts[number % len(read.parts)], self._order(read.places, epoch, row, number)
                    ),
                    row,
                    number,
                    label,
                )
            )
        return clips

    def _order(self, places: Tensor, epoch: int, row: int, view: int) -> list[int]:
        if self.data.frame_order == "shuffled":
            places = shuffled(places, chance.key(self.seed, "frame order", epoch, row, view))
        return places.tolist()

    def _draw(self, epoch: int, row: int) -> Callable[[int, int], np.ndarray]:
        rng = chance.numpy_generator(chance.key(self.seed, "frames", epoch, row))

        def draw(count: int, stride: int) -> np.ndarray:
            if self.data.sampling == "segments":
                return sampling.segments_train(count, self.num_frames, generator=rng)
            if self.kind == "pretrain":
                return sampling.pretrain_indices(count, self.num_frames, stride, generator=rng)
            return sampling.dense_train(count, self.num_frames, stride, generator=rng)

        return draw


class EvaluationClips:
    """All test views of a row from one decode: `views` = (clips, crops), default `data.test_clips` x
    `data.test_crops`.

    Clip-major: view = clip x crops + crop. One clip is the central window (released validation), several are
    the released test views; one crop is the middle, several lie evenly along the long side. A row that cannot
    be read is a Failure and never replaced.
    """

    def __init__(  # noqa: PLR0917
        self,
        manifest: Manifest,
        data: DataSettings,
        num_frames: int,
        size: int,
        views: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.num_clips, self.num_crops = views or (data.test_clips, data.test_crops)
        if self.num_clips < 1 or self.num_crops < 1:
            raise UserError(
                f"{self.num_clips} test clips x {self.num_crops} test crops came; each must be at least 1"
            )
        self.manifest = manifest
        self.data = data
        self.num_frames = num_frames
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> list[Clip] | Failure:
        """The views of one row, or why there are none."""
        with _named(self.manifest, row):
            return self._views(row)

    def _views(self, row: int) -> list[Clip] | Failure:
        read = read_window(
            self.manifest,
            row,
            self.data,
            self._windows,
            lambda pictures: [resize_short_side(pictures, self.size)],
        )
        if isinstance(read, Failure):
            return read
        label = self.manifest.row(row).label
        crops = view_crops(joined(read.parts[0], range(len(read.parts[0]))), self.size, self.num_crops)
        clips = []
        for clip, filmed in enumerate(read.places.split(self.num_frames)):
            mixing = self.data.frame_order == "shuffled"
            places = shuffled(filmed, chance.key(self.seed, "frame order", row, clip)) if mixing else filmed
            for crop, squares in enumerate(crops):
                clips.append(Clip(squares.index_select(0, places), row, clip * self.num_crops + crop, label))
        return clips

    def _windows(self, count: int, stride: int) -> np.ndarray:
        if self.data.sampling == "segments":
            if self.num_clips == 1:
                return sampling.segments_val(count, self.num_frames)
            return sampling.segments_test_views(count, self.num_frames, self.num_clips).reshape(-1)
        if self.num_clips == 1:
            return sampling.dense_val(count, self.num_frames, stride)
        return sampling.dense_test_views(count, self.num_frames, stride, self.num_clips).reshape(-1)


def shuffled(frames: Tensor, key: int) -> Tensor:
    """The same frames (or their numbers) in an order drawn from `key`: a control that keeps every picture and
    no motion.
    """
    return frames[torch.from_numpy(chance.numpy_generator(key).permutation(len(frames)))]


@contextlib.contextmanager
def _named(manifest: Manifest, number: int) -> Iterator[None]:
    """Inside, a fault of our own code gets the row's name; it ends the run, where an unreadable video does
    not.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise RowError(
            f"row {number}, {manifest.row(number).path}: {what}; the program failed here, not the video"
        ) from error
