"""The points of a temporal pyramid: what each one is to predict, and which segments its predictions mean.

A point of level l stands for 2 ** l features and answers for segments of its range of lengths only. Segments
here are in features: position 3.5 lies half-way between the features 3 and 4.
`FeatureTime` knows the seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from videomae2.data.features import FeatureTime
from videomae2.labels import Segments
from videomae2.overlap import Suppression
from videomae2.settings import LocalizeModel
from videomae2.targets import diou_loss_1d, sigmoid_focal_loss

FAR = 10_000.0
"""The longest distance to an end that the last level answers for, in features (released)."""
SAME_LENGTH = 1e-3
"""Segments whose lengths differ by less share a point, with a class each (released)."""


class Points(NamedTuple):
    """All points: position and stride in features, and the least and greatest distance to an end."""

    position: Float[Tensor, "P"]
    stride: Float[Tensor, "P"]
    least: Float[Tensor, "P"]
    most: Float[Tensor, "P"]

    @classmethod
    def of(cls, length: int, levels: int) -> "Points":
        """The points over `length` features. Level l answers for 2 ** (l + 1) to 2 ** (l + 2) features."""
        parts = []
        for level in range(levels):
            position = torch.arange(0, length, 2**level, dtype=torch.float32)
            numbers = (2.0**level, 2.0 ** (level + 1) if level else 0.0, 2.0 ** (level + 2))
            stride, least, most = (torch.full_like(position, number) for number in numbers)
            parts.append(
                (position, stride, least, torch.full_like(most, FAR) if level == levels - 1 else most)
            )
        return cls(*(torch.cat(each) for each in zip(*parts, strict=True)))


class PointTargets(NamedTuple):
    """What each point is to say: 1 for its classes, and distances to both ends in strides of its level."""

    classes: Float[Tensor, "B P K"]
    offsets: Float[Tensor, "B P 2"]

    @property
    def positive(self) -> Bool[Tensor, "B P"]:
        """Points that lie in a segment."""
        return self.classes.sum(-1) > 0


def targets_of(
    points: Points, segments: Float[Tensor, "A 2"], labels: Int[Tensor, "A"], num_classes: int, radius: float
) -> PointTargets:
    """The targets of one video (B = 1); segments in features.

    A point belongs to a segment if it lies within `radius` strides of its middle and inside it, and the
    farther end is in the range of its level; of several segments to the shortest (centre sampling, FCOS).
    """
    count = len(points.position)
    if len(segments) == 0:
        return PointTargets(torch.zeros(1, count, num_classes), torch.zeros(1, count, 2))
    position, stride = points.position[:, None], points.stride[:, None]
    ends = torch.stack([position - segments[:, 0], segments[:, 1] - position], -1)  # [P, A, 2]
    middle = segments.mean(1)
    left = position - torch.maximum(middle - stride * radius, segments[:, 0])
    right = torch.minimum(middle + stride * radius, segments[:, 1]) - position
    farthest = ends.amax(-1)
    inside = (torch.minimum(left, right) > 0) & (farthest >= points.least[:, None])
    inside &= farthest <= points.most[:, None]
    lengths = torch.where(inside, segments[:, 1] - segments[:, 0], torch.inf)
    shortest, which = lengths.min(1)
    chosen = (lengths <= shortest[:, None] + SAME_LENGTH) & inside
    hot = torch.nn.functional.one_hot(labels, num_classes).float()
    classes = (chosen.float() @ hot).clamp(max=1)
    offsets = ends[torch.arange(count), which] / stride
    return PointTargets(classes[None], offsets[None])


class Losses(NamedTuple):
    """Focal loss of the classes, DIoU loss of the ends, and their sum."""

    total: Float[Tensor, ""]
    classes: Float[Tensor, ""]
    ends: Float[Tensor, ""]


def losses_of(
    predicted: tuple[Tensor, Tensor, Tensor, Tensor], target: PointTargets, weight: float, smoothing: float
) -> Losses:
    """The losses of a batch, both divided by the running number of positive points (released).

    predicted: a network's `Predictions`. weight: of the ends. smoothing: share of each class target that is
    spread over all.
    """
    logits, offsets, valid, normalizer = predicted
    positive = target.positive & valid
    classes = target.classes * (1 - smoothing) + smoothing / (logits.shape[-1] + 1)
    focal = sigmoid_focal_loss(logits[valid], classes[valid]) / normalizer
    ends = diou_loss_1d(offsets[positive], target.offsets[positive]) / normalizer
    return Losses(focal + weight * ends, focal, ends)


@dataclass(frozen=True)
class Decoding:
    """From the predictions of a network to the segments of each video.

    least_score, candidates: of each level, the best that many predictions above this score are looked at.
    shortest: segments of fewer features are dropped.
    """

    suppression: Suppression
    least_score: float = 0.001
    candidates: int = 2000
    shortest: float = 0.05

    def __call__(
        self,
        predicted: tuple[Tensor, Tensor, Tensor, Tensor],
        points: Points,
        times: Sequence[FeatureTime],
        durations: Sequence[float],
    ) -> Segments:
        """The segments of each video in seconds, within it, with scores, from the best."""
        logits, offsets, valid, _ = (each.detach().float().cpu() for each in predicted)
        parts = []
        for video, (time, duration) in enumerate(zip(times, durations, strict=True)):
            scores = logits[video].sigmoid() * valid[video][:, None]
            kept, values, labels = self.suppression(*self._candidates(scores, offsets[video], points))
            seconds = time.to_seconds(kept).clamp(0, duration)
            parts.append(Segments.one(seconds, labels, values))
        return Segments.stack(parts)

    def _candidates(
        self, scores: Float[Tensor, "P K"], offsets: Float[Tensor, "P 2"], points: Points
    ) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n"], Int[Tensor, "n"]]:
        """The predictions that are good enough, level by level, in features."""
        segments, values, labels = [], [], []
        for stride in points.stride.unique().tolist():
            level = (points.stride == stride).nonzero()[:, 0]
            flat = scores[level].flatten()
            high = (flat > self.least_score).nonzero()[:, 0]
            best = high[flat[high].argsort(descending=True, stable=True)[: self.candidates]]
            place = level[best // scores.shape[1]]
            reach = offsets[place] * stride
            start, end = points.position[place] - reach[:, 0], points.position[place] + reach[:, 1]
            long = end - start > self.shortest
            segments.append(torch.stack([start, end], 1)[long])
            values.append(flat[best][long])
            labels.append((best % scores.shape[1])[long])
        return torch.cat(segments), torch.cat(values), torch.cat(labels)


def points_for(model: LocalizeModel, length: int) -> Points:
    """The points of a localizer over a padded sequence of `length` features."""
    return Points.of(length, model.levels)
