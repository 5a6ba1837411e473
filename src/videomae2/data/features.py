"""Features of videos: read from files, cut to training sequences, and put into batches.

A folder has NAME.npy or NAME.npz for each video, [features, values]; an .npz has an array of each video by
name. `FeatureTime` says when a feature is; a crop or a stretch of the sequence changes it.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from videomae2 import chance
from videomae2.bounds import shown
from videomae2.data.batches import TrainingOrder
from videomae2.data.tables.annotations import AnnotatedVideo
from videomae2.errors import UserError
from videomae2.labels import Segments
from videomae2.records import Failure
from videomae2.settings import LocalizeData
from videomae2.shapes import Record, check_indices, check_tensor

FORMS = (".safetensors", ".npy", ".npz")
TRIES = 200
"""Crops of a sequence that are tried for one with a segment in it (released)."""


@dataclass(frozen=True)
class FeatureTime:
    """When features are: each looks at `window` frames, and begins `stride` frames after the one before."""

    fps: float
    window: float
    stride: float
    first: float = 0.0
    """The frame at which the first window begins."""

    def to_features(self, seconds: Float[Tensor, "A 2"]) -> Float[Tensor, "A 2"]:
        """Seconds of the video as positions in the sequence: 0 is the middle of the first window."""
        return (seconds * self.fps - self.first - 0.5 * self.window) / self.stride

    def to_seconds(self, positions: Float[Tensor, "A 2"]) -> Float[Tensor, "A 2"]:
        """The inverse of `to_features`."""
        return (positions * self.stride + self.first + 0.5 * self.window) / self.fps


@dataclass(frozen=True)
class Sequenced:
    """The features of one video: float32 [L, D], when they are, and how long the video is in seconds."""

    values: Tensor
    time: FeatureTime
    duration: float
    header: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class FeatureBatch(Record):
    """Sequences of B videos, padded to one length, with the segments in them.

    features float [B, L, D]; lengths int64 [B]; row int64 [B]: which videos; target: their segments,
    in seconds; times: when their features are; durations in seconds.
    """

    features: Float[Tensor, "B L D"]
    lengths: Int[Tensor, "B"]
    row: Int[Tensor, "B"]
    target: Segments
    times: tuple[FeatureTime, ...]
    durations: tuple[float, ...]
    epoch: int = 0
    failures: tuple[Failure, ...] = ()
    replaced: int = 0

    def __post_init__(self) -> None:
        check_tensor("a batch of features", self.features, "float", "B L D")
        size = len(self.features)
        for name in ("lengths", "row"):
            check_indices(name, getattr(self, name), "B", B=size)
        for name in ("target", "times", "durations"):
            if len(getattr(self, name)) != size:
                raise UserError(f"expected {name} of {size} videos, got {len(getattr(self, name))}")

    def __len__(self) -> int:
        return len(self.features)


class UnreadableFeatures(UserError):
    """A video whose features are missing or damaged: it ends training, and fails in an evaluation."""


class FeatureFiles:
    """The features of named videos, from where `data.features` says they are."""

    def __init__(self, data: LocalizeData) -> None:
        self.data = data
        self.path = Path(data.features)
        if not data.features or not self.path.exists():
            raise UserError(
                f"expected features, got {shown(data.features)}, which is not there; name a folder with a "
                ".npy of each video, or an .npz, with --data.features"
            )
        self.archive = None if self.path.is_dir() else _archive(self.path)
        # Ours say it themselves, each file for its own video.
        own = self.path.is_dir() and any(self.path.glob("*.safetensors"))
        if not own and (data.feature_stride <= 0 or data.feature_window <= 0):
            raise UserError(
                f"expected how many frames lie between features and how many one looks at, got "
                f"--data.feature_stride {data.feature_stride:g} and --data.feature_window "
                f"{data.feature_window:g}; the files do not say: 4 and 16 for the hosted THUMOS14 features"
            )

    def read(self, video: AnnotatedVideo) -> Sequenced:
        """The features of a video as the settings want them; UnreadableFeatures where they cannot be read."""
        data = self.data
        values, header = self._values(video.name)
        stride, window = (
            self._told(name, getattr(data, f"feature_{name}"), header, video.name)
            for name in ("stride", "window")
        )
        if data.transform == "sqrt":
            if bool((values < 0).any()):
                raise UserError(f"expected no value below 0 for data.transform sqrt, got one in {video.name}")
            values = values.sqrt()
        fps = data.fps or header.get("fps") or video.fps
        if not fps:
            raise UserError(
                f"expected the frame rate of {shown(video.name)}, got none from its annotations; give "
                "--data.fps"
            )
        last = (len(values) - 1) * stride + window
        duration = header.get("duration") or video.duration or last / fps
        values = values[:: data.every]
        time = FeatureTime(fps, window, stride * data.every)
        if data.resize:
            # Each of the new features stands for its share of the video (released, for ActivityNet).
            share = ((len(values) - 1) * time.stride + time.window) / data.resize
            stretched = F.interpolate(values.T[None], data.resize, mode="linear", align_corners=False)
            values, time = stretched[0].T.contiguous(), FeatureTime(fps, share, share)
        return Sequenced(values, time, duration, {"window": window, "stride": stride, **header})

    def _told(self, name: str, setting: float, header: Mapping[str, Any], video: str) -> float:
        """The stride or window: of the header, which the setting may only repeat."""
        there = float(header.get(name) or setting)
        if setting and setting != there:
            raise UserError(
                f"expected features of {name} {setting:g}, as --data.feature_{name} says, got {there:g} in "
                f"the header of {shown(video)}; leave the setting out"
            )
        if there <= 0:
            raise UserError(
                f"expected --data.feature_{name}, since {shown(video)} has no header that says it"
            )
        return there

    def _values(self, name: str) -> tuple[Float[Tensor, "L D"], dict[str, Any]]:
        where = f"{self.path}, {name}"
        header: dict[str, Any] = {}
        try:
            if self.archive is not None:
                if name not in self.archive:
                    raise UnreadableFeatures(f"{self.path} has no features of {shown(name)}")
                found = self.archive[name]
            else:
                where, found, header = self._of_file(name)
        except UnreadableFeatures:
            raise
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UnreadableFeatures(
                f"{where} could not be read ({shown(str(error))}); is the file cut off?"
            ) from None
        if found.ndim != 2 or not len(found) or not np.issubdtype(found.dtype, np.number):
            raise UnreadableFeatures(
                f"expected {where} as numbers [features, values], got {found.dtype}{list(found.shape)}"
            )
        values = torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32))
        if not bool(values.isfinite().all()):
            raise UnreadableFeatures(
                f"expected finite values in {where}, got NaN or infinity; extract them again"
            )
        return values, header

    def _of_file(self, name: str) -> tuple[str, Any, dict[str, Any]]:
        for form in FORMS:
            file = self.path / f"{name}{form}"
            if not file.is_file():
                continue
            if form == ".safetensors":
                values, header = read_feature_file(file)
                return str(file), values.numpy(), header
            loaded = np.load(file, allow_pickle=False)
            return str(file), loaded if form == ".npy" else loaded[loaded.files[0]], {}
        raise UnreadableFeatures(f"{self.path} has no {name} as {', '.join(FORMS)}")


def read_feature_file(path: Path) -> tuple[Float[Tensor, "L D"], dict[str, Any]]:
    """Features that `videomae2 features` wrote, and their header; ValueError where they are not whole."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["videomae2"])
            values = file.get_tensor("features")
    except (SafetensorError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(header, dict) or not isinstance(header.get("frames"), int):
        raise ValueError("its header does not say of how many frames it is")
    return values, header


def _archive(path: Path) -> Any:
    try:
        opened = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"expected an .npz of features, got {path}: {shown(str(error))}") from None
    if not hasattr(opened, "files"):
        raise UserError(f"expected an .npz with an array of each video, got the one array of {path}")
    return opened


@dataclass(frozen=True)
class SequenceRows:
    """Annotated videos with their features: those of training are cropped by chance.

    labels: classes by name. length: features of a padded sequence at least; longer ones are cut in training.
    """

    files: FeatureFiles
    videos: Sequence[AnnotatedVideo]
    labels: dict[str, int]
    length: int
    seed: int = 0

    def whole(self, row: int) -> tuple[Sequenced, Segments]:
        """A video with all of its segments."""
        video = self.videos[row]
        seconds = torch.tensor([s[:2] for s in video.segments], dtype=torch.float32).reshape(-1, 2)
        labels = torch.tensor([self.labels[s.label] for s in video.segments], dtype=torch.int64)
        return self.files.read(video), Segments.one(seconds, labels)

    def cropped(self, epoch: int, row: int) -> tuple[Sequenced, Segments]:
        """A part of a video, and what is left of its segments: a function of seed, epoch and row."""
        found, target = self.whole(row)
        share = self.files.data.crop
        chances = chance.numpy_generator(chance.key(self.seed, "crop of features", epoch, row))
        count = len(found.values)
        least, most = (max(1, round(each * count)) for each in share)
        size = self.length if count > self.length else int(chances.integers(least, most + 1))
        if size >= count:
            return found, target
        positions = found.time.to_features(target.seconds)
        for _ in range(TRIES):
            start = int(chances.integers(0, count - size + 1))
            cut = positions.clamp(start, start + size)
            share_left = (cut[:, 1] - cut[:, 0]) / (positions[:, 1] - positions[:, 0]).clamp(min=1e-9)
            left = share_left >= self.files.data.keep_share
            # A part without any segment teaches little; a video without any is taken as it is.
            if bool(left.any()) or len(positions) == 0:
                break
        assert target.labels is not None
        time = replace(found.time, first=found.time.first + start * found.time.stride)
        seconds = found.time.to_seconds(cut[left])
        part = Sequenced(found.values[start : start + size], time, found.duration)
        return part, Segments.one(seconds, target.labels[left])


def batch_of(parts: Sequence[tuple[Sequenced, Segments]], rows: Sequence[int], length: int) -> FeatureBatch:
    """Videos as a batch, their features padded with zeros to `length`."""
    features = torch.stack([F.pad(one.values, (0, 0, 0, length - len(one.values))) for one, _ in parts])
    return FeatureBatch(
        features,
        torch.tensor([len(one.values) for one, _ in parts]),
        torch.tensor(list(rows)),
        Segments.stack([target for _, target in parts]),
        tuple(one.time for one, _ in parts),
        tuple(one.duration for one, _ in parts),
    )


def sequence_batches(
    rows: SequenceRows,
    *,
    batch_size: int,
    start_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
) -> Iterator[FeatureBatch]:
    """Training batches without end, from batch `start_batch` of this process on, as those of clips are."""
    order = TrainingOrder(len(rows.videos), batch_size, rows.seed, start_batch, rank, world_size, accumulate)
    for number, places in enumerate(order, start_batch):
        parts = [rows.cropped(epoch, row) for epoch, row in places]
        batch = batch_of(parts, [row for _, row in places], rows.length)
        yield replace(batch, epoch=order.place(number)[0])
