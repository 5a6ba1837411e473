"""Temporal detection: a pyramid of local transformers, trained on features of windows (paper 4.3)."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from videomae2 import chance
from videomae2.bounds import shown
from videomae2.data.features import (
    FeatureBatch,
    FeatureFiles,
    Sequenced,
    SequenceRows,
    UnreadableFeatures,
    sequence_batches,
)
from videomae2.data.tables.annotations import Annotations, read_annotations
from videomae2.engine import parallel
from videomae2.engine.progress import say
from videomae2.engine.schedule import Plan, make_plan
from videomae2.errors import UserError
from videomae2.heads.points import Points, PointTargets, losses_of, targets_of
from videomae2.heads.temporal import Localizer
from videomae2.recipes.detections import HeldOut
from videomae2.recipes.feed import Prepared, Recipe
from videomae2.recipes.weights import About, read_weights
from videomae2.records import StepOutput
from videomae2.settings import LocalizeSettings
from videomae2.weights import load_into

ONE_CLASS = "action"
"""The class of every segment of a class-agnostic detector."""
OF_ONE_VIDEO = ("frames", "fps", "duration", "padded")
"""Entries of a feature file's header that say nothing of how features are made."""


@dataclass(frozen=True)
class SequenceFeed:
    """Endless training batches of feature sequences from any batch number on, and the plan of the run."""

    rows: SequenceRows
    settings: LocalizeSettings
    annotations: Annotations

    def __call__(self, start_batch: int) -> Iterator[FeatureBatch]:
        """This rank's batches from `start_batch` on."""
        return sequence_batches(
            self.rows,
            batch_size=self.settings.optim.batch_size,
            start_batch=start_batch,
            rank=parallel.rank(),
            world_size=parallel.world_size(),
            accumulate=self.settings.optim.accumulate,
        )

    def identity(self) -> dict[str, Any]:
        """Classes, and a hash of the segments: a run that is resumed must have the same."""
        told = json.dumps([[v.name, [s[:3] for s in v.segments]] for v in self.rows.videos], allow_nan=False)
        segments = hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()
        return {"classes": list(self.annotations.class_names), "segments (SHA-256)": segments}

    def plan(self) -> Plan:
        """The run's schedule, in optimizer steps."""
        optim, run = self.settings.optim, self.settings.run
        count, world = len(self.rows.videos), parallel.world_size()
        run = run if self.settings.data.val else replace(run, evaluate_every=0)
        return make_plan(optim, run, count, 1, world)


def sequence_feed(settings: LocalizeSettings) -> SequenceFeed:
    """The feed of the training annotations; UserError where one of its videos has no features."""
    data = settings.data
    if not data.train:
        raise UserError("expected training annotations, got none; name a JSON or CSV with --data.train")
    annotations = read_annotations(data.train, data.train_subset, data.label_key, data.invalid)
    for note in annotations.notes:
        say(note)
    rows = SequenceRows(
        FeatureFiles(data),
        annotations.videos,
        _numbers(annotations, settings),
        settings.model.max_length,
        settings.run.seed,
    )
    missing, first = [], None
    for number, video in enumerate(rows.videos):
        try:
            found, _ = rows.whole(number)
        except UnreadableFeatures as error:
            missing.append(str(error))
            continue
        made = features_of(found, settings), found.values.shape[1]
        first = first or (video.name, made)
        if made != first[1]:
            raise UserError(
                f"expected features of all videos to be made alike, got {shown(made)} for "
                f"{shown(video.name)} and {shown(first[1])} for {shown(first[0])}; extract them again with "
                "one command"
            )
    if missing:
        raise UserError(
            f"{len(missing)} of {len(rows.videos)} annotated videos have no features: "
            f"{'; '.join(missing[:3])}; extract them, or take a subset with --data.train_subset"
        )
    return SequenceFeed(rows, settings, annotations)


def _numbers(annotations: Annotations, settings: LocalizeSettings) -> dict[str, int]:
    """The number of each class: that of its name in order, or 0 for all of them."""
    if settings.data.one_class:
        return dict.fromkeys(annotations.class_names, 0)
    return {name: number for number, name in enumerate(annotations.class_names)}


class Localizing:
    """The task: classes and ends at each point of the pyramid; focal loss and DIoU loss; mAP over tIoU."""

    network: Localizer

    def __init__(
        self, network: Localizer, settings: LocalizeSettings, held_out: HeldOut | None = None
    ) -> None:
        self.network, self.settings, self.held_out = network, settings, held_out
        self.points = Points.of(settings.model.max_length, settings.model.levels)
        self._named: set[int] = set()

    def step(self, network: nn.Module, batch: FeatureBatch, _step: int) -> StepOutput:
        """Compute the losses of a batch."""
        target = self.targets(batch)
        valid = self.valid(batch.lengths)
        predicted = network(batch.features, batch.lengths, (target.positive & valid).sum())
        points = self.settings.points
        losses = losses_of(predicted, target, points.ends_weight, points.label_smoothing)
        metrics = {"class_loss": losses.classes.detach(), "ends_loss": losses.ends.detach()}
        return StepOutput(losses.total, metrics)

    def targets(self, batch: FeatureBatch) -> PointTargets:
        """What each point of the batch is to say."""
        device = batch.features.device
        points = Points(*(each.to(device) for each in self.points))
        starts = [0, *batch.target.counts.cumsum(0).tolist()]
        parts = []
        for number, time in enumerate(batch.times):
            own = slice(starts[number], starts[number + 1])
            assert batch.target.labels is not None
            positions = time.to_features(batch.target.seconds[own])
            labels = batch.target.labels[own]
            parts.append(
                targets_of(points, positions, labels, self.network.num_classes, self.settings.points.radius)
            )
        return PointTargets(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def valid(self, lengths: Tensor) -> Tensor:
        """Points that are no padding, bool [B, P]: level l has ceil(length / 2 ** l)."""
        return self.points.position.to(lengths.device) < lengths[:, None]

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """MAP at each threshold and on average; videos without features count as missed."""
        assert self.held_out is not None, "an evaluation needs held-out videos, and the run has none"
        found, _, failures = self.held_out.measure(network)
        for failure in failures:
            if failure.row not in self._named:
                self._named.add(failure.row)
                say(f"{failure.path} counts as missed: {failure.reason}")
        values = {"mAP": found.average}
        values |= {f"mAP@{tiou:.2f}": value for tiou, value in zip(found.tious, found.at, strict=True)}
        return values | {"evaluated": found.evaluated, "failed": found.failed, "listed": found.listed}


def prepare_localizing(settings: LocalizeSettings, feed: Any) -> Prepared:
    """Build the task with initial weights; UserError for settings that cannot work."""
    model, data = settings.model, settings.data
    _check(settings)
    class_names = feed.annotations.class_names
    first, _ = feed.rows.whole(0)
    num_inputs = first.values.shape[1]
    generator = chance.torch_generator(chance.key(settings.run.seed, "initial weights"))
    network = Localizer(model, num_inputs, 1 if data.one_class else len(class_names), generator)
    notes: tuple[str, ...] = ()
    if settings.init:
        notes = (str(load_into(network, read_weights(settings.init))),)
    held_out = HeldOut.of(settings, class_names) if data.val else None
    names = (ONE_CLASS,) if data.one_class else class_names
    extra = {
        "localizer": asdict(model),
        "num_inputs": num_inputs,
        "features": features_of(first, settings),
        "suppression": asdict(settings.suppression),
    }
    about = About("localizer", None, len(names), names, extra)
    return Prepared(Localizing(network, settings, held_out), about, notes)


def features_of(first: Sequenced, settings: LocalizeSettings) -> dict[str, Any]:
    """What the features of a detector are: kept with its weights, since it understands no others."""
    changed = {name: getattr(settings.data, name) for name in ("every", "transform", "resize")}
    # As the files have it: stretching gives each video a stride of its own.
    told = {key: value for key, value in first.header.items() if key not in OF_ONE_VIDEO}
    made = {"made": told} if "weights_sha256" in told else {}
    return {"window": told["window"], "stride": told["stride"], **changed, **made}


def _check(settings: LocalizeSettings) -> None:
    model = settings.model
    if model.window % 2 == 0 or model.kernel % 2 == 0:
        raise UserError(
            f"expected odd numbers of features for model.window and model.kernel, got {model.window} and "
            f"{model.kernel}; try {model.window | 1} and {model.kernel | 1}"
        )
    if model.width % model.num_heads:
        raise UserError(
            f"expected model.width to be divisible by model.num_heads, got {model.width} and "
            f"{model.num_heads}"
        )
    if model.max_length % 2 ** (model.levels - 1):
        least = 2 ** (model.levels - 1)
        raise UserError(
            f"expected model.max_length divisible by {least}, since {model.levels} levels halve it, got "
            f"{model.max_length}; try {-(-model.max_length // least) * least}"
        )
    if model.global_levels > model.levels:
        raise UserError(
            f"expected at most {model.levels} model.global_levels, as many as there are levels, got "
            f"{model.global_levels}"
        )


RECIPE = Recipe(prepare_localizing, feed=sequence_feed)
