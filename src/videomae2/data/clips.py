"""From a manifest row to clips: sample, decode once, transform every view.

A broken row becomes a record, never a crash. What differs between tasks is passed in: the frame sampler and
the reader of targets.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from videomae2 import chance
from videomae2.data.augment.crops import TrainingTransform, joined, resize_short_side, view_crops
from videomae2.data.file_names import shown_path
from videomae2.data.rows import read_pictures
from videomae2.data.sampling import Sampler, ViewSampler
from videomae2.data.tables.manifest import Manifest
from videomae2.errors import RowError, UserError
from videomae2.labels import Classes, Target, Unlabelled
from videomae2.records import Clip, Failure
from videomae2.settings import DataSettings

REPLACEMENT_TRIES = 10
"""Rows tried for one place, the first included, before the place is given up."""

TargetReader = Callable[[Manifest, int], Target]
"""What row number i of a manifest is labelled with: the target of one clip, in pixels of the source."""


def read_class(manifest: Manifest, row: int) -> Classes:
    """The row's class number; -1 where it has none."""
    return Classes.one(manifest.row(row).label)


def no_target(manifest: Manifest, row: int) -> Unlabelled:  # noqa: ARG001 - a TargetReader
    """Nothing: pre-training needs no label, and an evaluation may read them from the manifest."""
    return Unlabelled()


class TrainingClips:
    """Training views by (epoch, row): `data.repeated_views` of them from one decode of the row's video.

    All views show the same frames, each with its own crop and augmentation (released, for pre-training and
    fine-tuning alike) and the row's target as seen through them. A row that cannot be read is replaced by
    another one, chosen by (seed, epoch, row), and named in the first clip's `failures`; after ten such rows
    only the failures come back. Everything random follows from (seed, epoch, row, view); the views of a
    replacement have numbers of their own (`stand_in_view`), since its row has its own clips in that epoch.
    """

    def __init__(  # noqa: PLR0917
        self,
        manifest: Manifest,
        data: DataSettings,
        size: int,
        sampler: Sampler,
        read_target: TargetReader = no_target,
        seed: int = 0,
    ) -> None:
        if data.repeated_views < 1:
            raise UserError(
                f"expected at least 1 view of each video, got repeated_views {data.repeated_views}; try 1"
            )
        self.manifest = manifest
        self.data = data
        self.size = size
        self.sampler = sampler
        self.read_target = read_target
        self.seed = seed
        self.transform = TrainingTransform(data, size)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, place: tuple[int, int]) -> list[Clip] | list[Failure]:
        """The views of one row in one epoch, or the failures of every row that was tried."""
        epoch, asked = place
        failures: list[Failure] = []
        for row in self._candidates(epoch, asked):
            with _named(self.manifest, row):
                made = self._views(epoch, row, None if row == asked else asked)
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

    def _views(self, epoch: int, row: int, instead_of: int | None) -> list[Clip] | Failure:
        first = 0 if instead_of is None else stand_in_view(instead_of)
        views = [
            self.transform.view(chance.numpy_generator(chance.key(self.seed, "transform", epoch, row, view)))
            for view in range(first, first + self.data.repeated_views)
        ]
        # The frames have a key of their own: however many numbers they draw, no view's crop changes.
        parts = (epoch, row) if instead_of is None else (epoch, row, instead_of)
        rng = chance.numpy_generator(chance.key(self.seed, "frames", *parts))

        def draw(count: int, stride: int) -> np.ndarray:
            return self.sampler(count, stride, rng)

        def shrink(pictures: Tensor) -> list[Tensor]:
            # RandAugment looks at whole pictures, so until then all views share them.
            return [view.shrink(pictures) for view in (views[:1] if self.transform.augment else views)]

        bound = self.transform.short_side_at_most
        read = read_pictures(self.manifest, row, self.data, draw, shrink, short_side_at_most=bound)
        if isinstance(read, Failure):
            return read
        target = self.read_target(self.manifest, row)
        clips = []
        for number, view in enumerate(views, first):
            places = self._order(read.places, epoch, row, number)
            part = read.parts[(number - first) % len(read.parts)]
            frames, placement = view.clip(part, places, read.source)
            clips.append(Clip(frames, row, number, target.placed(placement), placement))
        return clips

    def _order(self, places: Tensor, epoch: int, row: int, view: int) -> list[int]:
        if self.data.frame_order == "shuffled":
            places = shuffled(places, chance.key(self.seed, "frame order", epoch, row, view))
        return places.tolist()


def stand_in_view(asked: int) -> int:
    """The number of a replacement's first view: another for each row `asked` that it stands in for.

    So neither its crops nor its mask are those of another clip of the same row in the same epoch.
    """
    return (asked + 1) << 32  # far above the views of a row, and those of its repeats in a batch


class EvaluationClips:
    """All test views of a row from one decode: `views` = (clips, crops).

    By default `data.test_clips` x `data.test_crops`. Clip-major: view = clip x crops + crop. `sampler` says
    which frames the clips show; one crop is the middle, several lie evenly along the long side (released). A
    row that cannot be read is a Failure and never replaced.
    """

    def __init__(  # noqa: PLR0917
        self,
        manifest: Manifest,
        data: DataSettings,
        size: int,
        sampler: ViewSampler,
        views: tuple[int, int] | None = None,
        read_target: TargetReader = no_target,
        seed: int = 0,
    ) -> None:
        self.num_clips, self.num_crops = views or (data.test_clips, data.test_crops)
        if self.num_clips < 1 or self.num_crops < 1:
            raise UserError(
                f"expected at least 1 test clip and 1 test crop, got {self.num_clips} and {self.num_crops}"
            )
        self.manifest = manifest
        self.data = data
        self.num_frames = sampler.length
        self.size = size
        self.sampler = sampler
        self.read_target = read_target
        self.seed = seed

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> list[Clip] | Failure:
        """The views of one row, or why there are none."""
        with _named(self.manifest, row):
            return self._views(row)

    def _views(self, row: int) -> list[Clip] | Failure:
        def draw(count: int, stride: int) -> np.ndarray:
            return self.sampler.views(count, stride, self.num_clips).reshape(-1)

        def shrink(pictures: Tensor) -> list[Tensor]:
            return [resize_short_side(pictures, self.size)]

        read = read_pictures(self.manifest, row, self.data, draw, shrink)
        if isinstance(read, Failure):
            return read
        target = self.read_target(self.manifest, row)
        pictures = joined(read.parts[0], range(len(read.parts[0])))
        crops = view_crops(pictures, self.size, self.num_crops, read.source)
        clips = []
        for clip, filmed in enumerate(read.places.split(self.num_frames)):
            mixing = self.data.frame_order == "shuffled"
            places = shuffled(filmed, chance.key(self.seed, "frame order", row, clip)) if mixing else filmed
            for crop, (squares, placement) in enumerate(crops):
                view = clip * self.num_crops + crop
                frames = squares.index_select(0, places)
                clips.append(Clip(frames, row, view, target.placed(placement), placement))
        return clips


def shuffled(frames: Tensor, key: int) -> Tensor:
    """The same frames (or their numbers) in an order drawn from `key`.

    A control: it keeps every picture and no motion.
    """
    return frames[torch.from_numpy(chance.numpy_generator(key).permutation(len(frames)))]


@contextlib.contextmanager
def _named(manifest: Manifest, number: int) -> Iterator[None]:
    """Inside, a fault of our own code gets the row's name; it ends the run, unlike an unreadable video."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise RowError(
            f"row {number}, {shown_path(manifest.row(number).path)}: {what}; the program failed here, not "
            "the video"
        ) from error
