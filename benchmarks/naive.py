"""The pipeline to compare with: the whole file decoded to RGB for each view, then Pillow picture by picture,
then NumPy.

It makes the same clips as ours: the same frame numbers, boxes, operations and strengths, drawn from the same
generators.
"""

import time
from collections.abc import Callable

import av
import numpy as np
import torch
from naive_augment import augment
from PIL import Image

from videomae2 import chance
from videomae2.data import sampling
from videomae2.data.augment import crops as transforms
from videomae2.data.augment.rand_augment import RandAugment
from videomae2.data.tables.manifest import Manifest
from videomae2.settings import DataSettings


class NaiveTraining:
    """Training views of a row: uint8 [views, T, H, W, C]. `decode_seconds` is the processor time spent on
    decoding so far.
    """

    def __init__(self, manifest: Manifest, data: DataSettings, num_frames: int, size: int, kind: str) -> None:
        self.manifest, self.data, self.num_frames, self.size, self.kind = (
            manifest,
            data,
            num_frames,
            size,
            kind,
        )
        self.transform = transforms.TrainingTransform(data, size)
        self.policy = RandAugment.parse(data.rand_augment) if data.rand_augment else None
        self.decode_seconds = 0.0

    def __getitem__(self, place: tuple[int, int]) -> np.ndarray:
        epoch, row = place
        views = []
        for view in range(self.data.repeated_views):
            rng = chance.numpy_generator(chance.key(0, "frames", epoch, row))
            began = time.process_time()
            pictures = decode(self.manifest.row(row).path, lambda count, rng=rng: self._indices(count, rng))
            self.decode_seconds += time.process_time() - began
            views.append(
                self._view(pictures, chance.numpy_generator(chance.key(0, "transform", epoch, row, view)))
            )
        return np.stack(views)

    def _indices(self, count: int, rng: np.random.Generator) -> np.ndarray:
        draw = sampling.pretrain_indices if self.kind == "pretrain" else sampling.dense_train
        return draw(count, self.num_frames, self.data.stride, generator=rng)

    def _view(self, pictures: list[Image.Image], rng: np.random.Generator) -> np.ndarray:
        if self.policy is not None:
            short = min(pictures[0].size)
            bound = max(transforms.STORED_SHORT_SIDE, self.size)
            pictures = [resize_short_side(p, bound) for p in pictures] if short > bound else pictures
            pictures = augment(pictures, self.policy, rng)
        width, height = pictures[0].size
        box = self.transform.box(height, width, rng)
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        square = (self.size, self.size)
        pictures = [picture.crop(corners).resize(square, Image.Resampling.BILINEAR) for picture in pictures]
        if self.data.flip and rng.random() < 0.5:
            pictures = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
        clip = np.stack([np.asarray(picture) for picture in pictures])
        if self.transform.erase is None:
            return clip
        return (
            self.transform.erase(torch.from_numpy(clip).permute(0, 3, 1, 2), rng).permute(0, 2, 3, 1).numpy()
        )


class NaiveEvaluation:
    """All test views of a row, each from its own decode: uint8 [views, T, H, W, C]."""

    def __init__(self, manifest: Manifest, data: DataSettings, num_frames: int, size: int) -> None:
        self.manifest, self.data, self.num_frames, self.size = manifest, data, num_frames, size
        self.files_decoded = 0

    def __getitem__(self, row: int) -> np.ndarray:
        views = []
        for clip in range(self.data.test_clips):
            for crop in range(self.data.test_crops):
                pictures = decode(
                    self.manifest.row(row).path, lambda count, clip=clip: self._indices(count)[clip]
                )
                self.files_decoded += 1
                views.append(
                    self._square([resize_short_side(picture, self.size) for picture in pictures], crop)
                )
        return np.stack(views)

    def _indices(self, count: int) -> np.ndarray:
        return sampling.dense_test_views(count, self.num_frames, self.data.stride, self.data.test_clips)

    def _square(self, pictures: list[Image.Image], crop: int) -> np.ndarray:
        width, height = pictures[0].size
        offset = int(sampling.crop_offsets(height, width, self.data.test_crops)[crop])
        left, top = (0, offset) if height > width else (offset, 0)
        return np.stack(
            [np.asarray(p.crop((left, top, left + self.size, top + self.size))) for p in pictures]
        )


def decode(path: str, choose: Callable[[int], np.ndarray]) -> list[Image.Image]:
    """Every frame of a file as RGB, of which `choose(count)` names the ones that stay; one decoding
    thread.
    """
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return [Image.fromarray(frames[index]) for index in choose(len(frames)).tolist()]


def resize_short_side(picture: Image.Image, size: int) -> Image.Image:
    """The short side at `size`, the long one in proportion, cut to a whole pixel."""
    width, height = picture.size
    wanted = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    return picture.resize(wanted, Image.Resampling.BILINEAR)
