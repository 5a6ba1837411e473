"""Spatial action detection: trained on annotated boxes, evaluated on detected ones (paper 4.3, appendix)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from videomae2 import chance
from videomae2.box_overlap import grown
from videomae2.data.batches import evaluation_batches
from videomae2.data.key_frames import (
    KeyFrameViews,
    annotated,
    lines_of,
    read_boxes,
    read_found,
    read_key_frames,
)
from videomae2.data.tables.manifest import Manifest
from videomae2.engine import parallel
from videomae2.engine.device import choose_device
from videomae2.engine.progress import say
from videomae2.errors import UserError
from videomae2.files import json_text, write_atomically
from videomae2.heads.spatial import SpatialDetector, action_loss, build_detector, class_weights
from videomae2.labels import Boxes
from videomae2.metrics.boxes import BoxRows, FrameScores
from videomae2.recipes.feed import Prepared, Recipe, TrainingFeed
from videomae2.recipes.weights import About, load_detector, sampling_of
from videomae2.records import Batch, Failure, StepOutput
from videomae2.settings import DataSettings, DetectData, DetectSettings, ModelSettings

FOCUS = 2.0
"""Exponent of the focal loss (Lin et al., 2017)."""
HARDEST = "hardest.json"
"""The key frames of the last evaluation that cost most, for the report."""
SHOWN = 8


@dataclass(frozen=True)
class Scene:
    """Some key frames of one size: frames [n, T, C, H, W], all their boxes, to which each belongs, its score.

    `rows` are those of the manifest.
    """

    frames: Tensor
    target: Boxes
    rows: tuple[int, ...]


@dataclass(frozen=True)
class KeyFrameFeed:
    """Every key frame of a manifest once, whole; those of one size that follow each other go together."""

    manifest: Manifest
    data: DetectData
    model: ModelSettings
    batch_size: int = 1
    pin: bool = False

    def scenes(self, fail: Callable[[Iterable[Failure]], None]) -> Iterator[Scene]:
        """This rank's key frames; `fail` is told of those that cannot be read."""
        size = self.data.test_size or self.model.size
        views = KeyFrameViews(self.manifest, self.data, self.model.num_frames, size)
        world = parallel.world_size()
        waiting: list[Batch[Boxes]] = []
        # One by one from the loader, since two videos seldom have one size; joined here while they do.
        for batch in evaluation_batches(
            views,
            batch_size=1,
            workers=self.data.workers,
            rank=parallel.rank(),
            world_size=world,
            pin=self.pin,
        ):
            fail(batch.failures)
            if not len(batch):
                continue
            if waiting and waiting[0].frames.shape != batch.frames.shape:
                yield _joined(waiting)
                waiting = []
            waiting.append(cast("Batch[Boxes]", batch))
            if len(waiting) == self.batch_size:
                yield _joined(waiting)
                waiting = []
        if waiting:
            yield _joined(waiting)

    @property
    def blank(self) -> Scene:
        """One black clip with one box, for a rank that has no key frame left."""
        frames = torch.zeros(
            (1, self.model.num_frames, 3, self.model.size, self.model.size), dtype=torch.uint8
        )
        return Scene(frames, Boxes.one(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), scores=torch.ones(1)), ())

    def truth(self) -> BoxRows:
        """The annotations as the metric reads them."""
        frame, xyxy, box, label = annotated(self.manifest)
        return BoxRows(frame, xyxy, box, label)


def _joined(batches: list[Batch[Boxes]]) -> Scene:
    frames = batches[0].frames if len(batches) == 1 else torch.cat([each.frames for each in batches])
    rows = tuple(int(each.row[0]) for each in batches)
    return Scene(frames, Boxes.stack([each.target for each in batches]), rows)


class Detecting:
    """The task: jitter boxes, classify what is in them; frame mAP on held-out key frames."""

    network: SpatialDetector

    def __init__(
        self,
        network: SpatialDetector,
        settings: DetectSettings,
        class_names: tuple[str, ...] = (),
        held_out: KeyFrameFeed | None = None,
        weights: Float[Tensor, "K"] | None = None,
    ) -> None:
        self.network = network
        self.settings = settings
        self.class_names = class_names
        self.held_out = held_out
        self.weights = weights
        self._named: set[int] = set()

    def step(self, network: nn.Module, batch: Batch[Boxes], _step: int) -> StepOutput:
        """Compute the loss of all boxes of a batch; clips without a box teach nothing, and count."""
        hot = batch.target.labels
        assert isinstance(hot, Tensor), "annotated boxes have labels"
        size = batch.frames.shape[-2], batch.frames.shape[-1]
        boxes = jittered(batch.target.xyxy, self.settings.data.box_jitter, size)
        logits = network(batch.frames, boxes, batch.target.clip)
        weights = None if self.weights is None else self.weights.to(logits.device)
        focus = FOCUS if self.settings.loss == "focal" else 0.0
        loss = action_loss(logits, hot, len(batch), focus=focus, weights=weights)
        return StepOutput(loss, {"boxes": hot.new_tensor(len(hot) / max(1, len(batch)))})

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Frame mAP at IoU 0.5, and the share of annotated boxes that some scored box covers.

        Key frames that cannot be read count as missed; each is printed once a run.
        """
        assert self.held_out is not None, "an evaluation needs held-out key frames, and the run has none"
        scores = score_key_frames(network, self.held_out, self.network.num_classes)
        for failure in scores.failures.values():
            if failure.row not in self._named:
                self._named.add(failure.row)
                say(f"{failure.path} could not be read and counts as missed: {failure.reason}")
        report = scores.report()
        if self.settings.run.out and parallel.is_main():
            text = json_text(hardest(scores, self.held_out.manifest, self.class_names), 1)
            write_atomically(Path(self.settings.run.out) / HARDEST, text)
        values = {"frame_map": report.mean, "box_recall": report.recall}
        counts = {"evaluated": report.evaluated, "failed": report.failed, "listed": report.listed}
        return {name: float(value) for name, value in (values | counts).items()}


def jittered(
    boxes: Float[Tensor, "A 4"], most: tuple[float, float], size: tuple[int, int]
) -> Float[Tensor, "A 4"]:
    """Boxes whose edges moved out by up to these shares of their sides, or in by half as much (V1).

    Detected boxes are never as tight as drawn ones. The result stays inside a picture (height, width).
    """
    if not any(most) or not len(boxes):
        return boxes
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    # From the generator that the engine seeds for each step and accumulated batch, as for dropout.
    out = torch.rand(boxes.shape, device=boxes.device) * 1.5 - 0.5
    moved = boxes + boxes.new_tensor([-most[0], -most[1], most[0], most[1]]) * out * sides
    return torch.minimum(moved.clamp(min=0), moved.new_tensor([size[1], size[0]]).repeat(2))


@torch.no_grad()
def score_key_frames(
    network: nn.Module,
    feed: KeyFrameFeed,
    num_classes: int,
    progress: Callable[[int], None] = lambda _: None,
) -> FrameScores:
    """Score every box of every key frame, a detector's score times a sigmoid (released). Collective."""
    scores = FrameScores(feed.truth(), num_classes, len(feed.manifest))
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        for scene, counts in parallel.in_step(feed.scenes(scores.fail), network, feed.blank):
            found, given = scene.target, scene.target.scores
            assert given is not None, "boxes to score have scores"
            size = scene.frames.shape[-2], scene.frames.shape[-1]
            boxes = grown(found.xyxy, *feed.data.box_growth, size)
            logits = network(
                scene.frames.to(device, non_blocking=True), boxes.to(device), found.clip.to(device)
            )
            if counts:
                shares = (logits.float().sigmoid().cpu() * given[:, None]).split(found.counts.tolist())
                for row, share in zip(scene.rows, shares, strict=True):
                    # In the unit of the annotations, not of the clip: no digit is lost on the way.
                    scores.update(row, read_found(feed.manifest, row).xyxy, share)
                progress(len(scene.rows))
    finally:
        network.train(was_training)
    if parallel.in_group():
        for state in parallel.all_objects(scores.state_dict()):
            scores.merge(state)
    return scores


def hardest(scores: FrameScores, manifest: Manifest, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The key frames that cost most, as plain JSON: what was annotated, what was found, for a report."""
    frames = []
    for row, cost in scores.hardest(SHOWN):
        listed = manifest.row(row)
        truth = read_boxes(manifest, row)
        boxes, shares = scores.boxes[row]
        assert isinstance(truth.labels, Tensor), "annotated boxes have labels"
        frames.append(
            {
                "path": listed.path,
                "time": listed.key_time,
                "key": listed.key_frame,
                "title": lines_of(manifest, [row])[0],
                "cost": round(cost, 3),
                "shares": truth.shares,
                "truth": [
                    {"box": box, "actions": [names[k] for k in np.flatnonzero(hot)]}
                    for box, hot in zip(truth.xyxy.tolist(), truth.labels.numpy(), strict=True)
                ],
                "found": [
                    {
                        "box": box,
                        "actions": [[names[k], round(float(share[k]), 3)] for k in np.argsort(-share)[:3]],
                    }
                    for box, share in zip(boxes.tolist(), shares, strict=True)
                ],
            }
        )
    return frames


def prepare_detecting(settings: DetectSettings, feed: TrainingFeed) -> Prepared:
    """Build the detection task with initial weights; UserError for settings that cannot work."""
    _check(settings)
    manifest = feed.clips.manifest
    names = tuple(manifest.class_names)
    generator = chance.torch_generator(chance.key(settings.run.seed, "initial weights"))
    network = build_detector(settings.model, len(names), settings.head, generator)
    notes = [_told(manifest, settings.data)]
    if settings.init:
        notes.append(str(load_detector(network, settings.init, names)))
    weights = None
    if settings.loss == "balanced":
        actions = annotated(manifest)[3]
        weights = class_weights(torch.from_numpy(np.bincount(actions, minlength=len(names))))
    held_out = key_frame_feed(
        settings.data, settings.model, names, settings.optim.batch_size, settings.run.device
    )
    if held_out is not None:
        notes.append(_told(held_out.manifest, settings.data))
    task = Detecting(network, settings, names, held_out, weights)
    extra = {"data": sampling_of(settings.data), "head": asdict(settings.head)}
    extra["detect"] = {"test_size": settings.data.test_size, "box_growth": settings.data.box_growth}
    return Prepared(task, About("detector", settings.model, len(names), names, extra), tuple(notes))


def key_frame_feed(
    data: DetectData, model: ModelSettings, names: tuple[str, ...], batch_size: int, device: str
) -> KeyFrameFeed | None:
    """The feed of `data.val`, with the classes of the training annotations; None without it."""
    if not data.val:
        return None
    manifest = read_key_frames(data.val, data, names)
    return KeyFrameFeed(manifest, data, model, batch_size, choose_device(device).type == "cuda")


def _check(settings: DetectSettings) -> None:
    if settings.data.sampling != "key":
        raise UserError(
            f"expected data.sampling key, got {settings.data.sampling}: boxes are those of the key frame, "
            "which other clips may not show"
        )
    if settings.data.rand_augment or settings.data.erasing:
        raise UserError(
            "expected no data.rand_augment and no data.erasing, got one: they move or hide pixels, and boxes "
            "would not follow; use data.color_jitter and data.box_jitter"
        )


def _told(manifest: Manifest, data: DetectData) -> str:
    """What was read, and how boxes were understood, in one line."""
    _, xyxy, _, label = annotated(manifest)
    unit = "shares of the picture" if manifest.table.column("shares")[0].as_py() else "pixels"
    how = "" if data.coordinates != "auto" else ", as their numbers look (--data.coordinates says otherwise)"
    text = (
        f"{manifest.where}: {len(manifest)} key frames, {len(xyxy)} boxes in {unit}{how}, {len(label)} "
        f"actions of {manifest.num_classes} classes"
    )
    if "found" in manifest.table.column_names:
        kept = sum(len(each) for each in manifest.table.column("found_scores").to_pylist())
        text += f"; {kept} boxes of {data.proposals} with a score of at least {data.min_score:g}"
    return text


def _read_training(path: str, data: DataSettings) -> Manifest:
    assert isinstance(data, DetectData), "the task's settings have its data settings"
    # Proposals are for evaluations: training sees annotated boxes (paper).
    return read_key_frames(path, replace(data, proposals=""))


RECIPE = Recipe(prepare_detecting, read_target=read_boxes, read=_read_training)
