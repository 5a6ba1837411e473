"""What a temporal detector finds: it is read by name, looks at held-out videos, and is measured by mAP."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from videomae2.bounds import shown
from videomae2.config import known_settings
from videomae2.data.features import FeatureFiles, SequenceRows, UnreadableFeatures, batch_of
from videomae2.data.tables.annotations import read_annotations
from videomae2.engine.progress import say
from videomae2.errors import UserError
from videomae2.heads.points import Decoding, Points
from videomae2.heads.temporal import Localizer, padded_length
from videomae2.labels import Segments
from videomae2.metrics.segments import (
    ACTIVITYNET,
    THUMOS14,
    Profile,
    SegmentMap,
    false_positives,
    segment_map,
)
from videomae2.overlap import Suppression, with_classes_of_video
from videomae2.recipes.weights import read_weights
from videomae2.records import Failure
from videomae2.settings import LocalizeModel, LocalizeSettings, SuppressionSettings
from videomae2.weights import Checkpoint, load_into

THRESHOLDS = {"thumos14": THUMOS14, "activitynet": ACTIVITYNET}
"""tIoU thresholds by the word of `data.thresholds`."""


@dataclass(frozen=True)
class HeldOut:
    """Videos to evaluate on, with the classes of training, and for a class-agnostic detector their scores."""

    rows: SequenceRows
    class_names: tuple[str, ...]
    video_scores: dict[str, Tensor] | None
    settings: LocalizeSettings

    @classmethod
    def of(cls, settings: LocalizeSettings, class_names: tuple[str, ...], quiet: bool = False) -> "HeldOut":
        """The videos of `data.val`; `quiet` tells nothing of odd ones.

        UserError for a class that training has not, or scores of videos that do not fit.
        """
        data = settings.data
        annotations = read_annotations(data.val, data.val_subset, data.label_key, data.invalid)
        for note in () if quiet else annotations.notes:
            say(note)
        there = {s.label for video in annotations.videos for s in video.segments}
        unknown = sorted(there - set(class_names))
        if unknown:
            raise UserError(
                f"expected classes of the training annotations in {data.val}, got {shown(unknown[0])}; "
                f"training has {len(class_names)}: {shown(', '.join(class_names[:5]))}"
            )
        numbers = {name: number for number, name in enumerate(class_names)}
        rows = SequenceRows(FeatureFiles(data), annotations.videos, numbers, settings.model.max_length)
        scores = _video_scores(data.video_scores, len(class_names)) if data.one_class else None
        return cls(rows, class_names, scores, settings)

    def measure(self, network: nn.Module) -> tuple[SegmentMap, Segments, list[Failure]]:
        """MAP over all listed videos, the predictions, and the videos whose features could not be read."""
        model = self.settings.model
        found: list[Segments] = []
        failures: list[Failure] = []
        decode = decoding(self.settings.suppression, self.settings.data.one_class)
        device = next(network.parameters()).device
        for number, video in enumerate(self.rows.videos):
            try:
                whole = self.rows.whole(number)
            except UnreadableFeatures as error:
                failures.append(Failure(number, video.name, str(error)))
                found.append(_nothing())
                continue
            # One video at a time: they differ in length, and padding would cost more than a batch saves.
            length = padded_length(model, len(whole[0].values))
            batch = batch_of([whole], [number], length)
            outputs = network(batch.features.to(device), batch.lengths.to(device))
            segments = decode(outputs, Points.of(length, model.levels), batch.times, batch.durations)
            found.append(self._classified(video.name, segments))
        predicted = Segments.stack(found)
        measured = segment_map(
            self.truth(),
            predicted,
            len(self.class_names),
            THRESHOLDS[self.settings.data.thresholds],
            [failure.row for failure in failures],
        )
        return measured, predicted, failures

    def truth(self) -> Segments:
        """The true segments of all videos, in float64 as they are written: the evaluator compares in it."""
        seconds = [s[:2] for video in self.rows.videos for s in video.segments]
        labels = [self.rows.labels[s.label] for video in self.rows.videos for s in video.segments]
        return Segments(
            seconds=torch.tensor(seconds, dtype=torch.float64).reshape(-1, 2),
            counts=torch.tensor([len(video.segments) for video in self.rows.videos]),
            labels=torch.tensor(labels, dtype=torch.int64),
        )

    def _classified(self, name: str, found: Segments) -> Segments:
        if self.video_scores is None:
            return found
        if name not in self.video_scores:
            raise UserError(
                f"expected scores of {shown(name)} in {self.settings.data.video_scores}, got none"
            )
        assert found.scores is not None
        seconds, scores, labels = with_classes_of_video(found.seconds, found.scores, self.video_scores[name])
        return Segments.one(seconds, labels, scores)


def _nothing() -> Segments:
    return Segments.one(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), torch.zeros(0))


def _video_scores(path: str, num_classes: int) -> dict[str, Tensor]:
    """Scores of whole videos, for each class in the order of their names."""
    if not path or not Path(path).is_file():
        raise UserError(
            f"expected scores of whole videos for a class-agnostic detector, got {shown(path)}; name a JSON "
            "from videos to lists of scores with --data.video_scores"
        )
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        scores = {name: torch.tensor(row, dtype=torch.float32).flatten() for name, row in content.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"expected {path} to map videos to lists of scores, got {shown(str(error))}"
        ) from None
    for name, row in scores.items():
        if len(row) != num_classes:
            raise UserError(
                f"{path}, {shown(name)}: expected {num_classes} scores, one a class, got {len(row)}"
            )
        if bool(((row < 0) | (row > 1)).any()):  # logits
            scores[name] = row.softmax(0)
    return scores


def decoding(settings: SuppressionSettings, one_class: bool = False) -> Decoding:
    """From predictions to segments, as the settings say; classes are kept apart unless there is one."""
    suppression = Suppression(
        settings.method,
        settings.iou,
        settings.sigma,
        settings.min_score,
        settings.most,
        by_class=not one_class,
        vote=settings.vote,
    )
    return Decoding(suppression, settings.min_score, settings.candidates)


def read_localizer(name: str | Path, use_ema: bool = True) -> tuple[Localizer, Checkpoint]:
    """The detector that a weights name stands for, in eval mode: a run, or an ActionFormer checkpoint.

    UserError where it is no temporal detector.
    """
    checkpoint = read_weights(str(name), use_ema)
    if checkpoint.kind != "localizer":
        raise UserError(
            f"expected a temporal detector, got {name}, a {checkpoint.kind} network; train one with "
            "videomae2 localize-train"
        )
    num_inputs, num_classes = checkpoint.state["embed.0.conv.weight"].shape[1], checkpoint.num_classes or 0
    network = Localizer(model_of(checkpoint), num_inputs, num_classes)
    load_into(network, checkpoint)
    return network.eval(), checkpoint


def model_of(checkpoint: Checkpoint) -> LocalizeModel:
    """The sizes of a detector: as its run wrote them, or of others' weights as far as shapes tell.

    Heads and window do not show in shapes: they are then those of the released THUMOS14 settings.
    """
    known = known_settings(LocalizeModel)
    told = checkpoint.metadata.get("localizer")
    if isinstance(told, dict):
        where = f"in {checkpoint.source}"
        return LocalizeModel(
            **{key: known[key].take(value, where) for key, value in told.items() if key in known}
        )
    state = checkpoint.state

    def count(part: str) -> int:
        """How many modules a list of them has."""
        inside = (name.removeprefix(f"{part}.") for name in state if name.startswith(f"{part}."))
        return len({name.partition(".")[0] for name in inside})

    return LocalizeModel(
        width=len(state["embed.0.conv.weight"]),
        levels=len(state["scales"]),
        embed_layers=count("embed"),
        stem_blocks=count("stem"),
        head_layers=1 + count("classify.layers"),
        kernel=state["embed.0.conv.weight"].shape[2],
        drop_path=LocalizeModel.drop_path if any(name.endswith(".scale1") for name in state) else 0.0,
    )


def measure_run(
    folder: str | Path, settings: LocalizeSettings
) -> tuple[SegmentMap, Profile, tuple[str, ...]]:
    """A run on its held-out videos: mAP, kinds of false positives, and the names of the classes."""
    network, checkpoint = read_localizer(folder)
    names = checkpoint.class_names
    if settings.data.one_class:
        names = read_annotations(
            settings.data.train, label_key=settings.data.label_key, invalid="tell"
        ).class_names
    held_out = HeldOut.of(settings, names, quiet=True)
    with torch.no_grad():
        found, predicted, _ = held_out.measure(network)
    return found, false_positives(held_out.truth(), predicted, len(names)), names
