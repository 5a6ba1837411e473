"""How much segments overlap, and what follows: soft and hard NMS, segment voting, classes of whole videos.

Segments are [A, 2] as (start, end) in any unit. "Released" is what ActionFormer does, the code base behind
the paper's temporal detection (paper 4.3); its results are recorded in the tests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videomae2.errors import UserError

LEAST_LENGTH = 1e-6
"""Added to the length of segments in NMS, so that instants divide nothing by zero (released)."""

Segment = Float[Tensor, "A 2"]
Kept = tuple[Int[Tensor, "n"], Float[Tensor, "n"]]
"""What a suppression leaves, from the best score: rows of its input, and the scores they are left with."""


def segment_iou(first: Float[Tensor, "A 2"], second: Float[Tensor, "B 2"]) -> Float[Tensor, "A B"]:
    """Intersection over union of every pair; 0 for two instants."""
    shared = _shared(first[:, None], second[None])
    union = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])[None] - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def hard_nms(segments: Segment, scores: Float[Tensor, "A"], iou: float, most: int) -> Kept:
    """Keep a segment unless a better one that is kept overlaps it by `iou` or more; at most `most`."""
    left = scores.clone()

    def suppress(overlaps: Tensor) -> None:
        left[overlaps >= iou] = -torch.inf

    rows = _best_first(segments, left, suppress, most)
    return rows, scores[rows]


def soft_nms(
    segments: Segment, scores: Float[Tensor, "A"], sigma: float, min_score: float, most: int
) -> Kept:
    """Multiply a score by exp(-iou^2 / sigma) for each better segment; drop it once it is below `min_score`.

    At most `most` remain. The best of what remains is taken even where it began below `min_score` (released).
    """
    left, final = scores.clone(), scores.clone()

    def suppress(overlaps: Tensor) -> None:
        left.mul_(torch.exp(-overlaps.square() / sigma))
        left[left < min_score] = -torch.inf
        # Rows that were taken before are at minus infinity, and keep what they were taken with.
        final.copy_(torch.where(left > -torch.inf, left, final))

    rows = _best_first(segments, left, suppress, most)
    return rows, final[rows]


def vote(
    kept: Float[Tensor, "A 2"], segments: Float[Tensor, "B 2"], scores: Float[Tensor, "B"], iou: float
) -> Float[Tensor, "A 2"]:
    """Each kept segment as the mean of all that overlap it by `iou`, weighted by score times overlap."""
    overlaps = segment_iou(kept, segments)
    weights = torch.where(overlaps >= iou, overlaps * scores, 0.0)
    total = weights.sum(dim=1, keepdim=True)
    # An instant overlaps nothing, not even itself, and stays where it is.
    return torch.where(total > 0, weights @ segments / total.clamp(min=torch.finfo(total.dtype).tiny), kept)


@dataclass(frozen=True)
class Suppression:
    """How overlapping detections of one video are thinned out; the defaults are for THUMOS14 (released).

    by_class: detections of different classes leave each other alone. vote: tIoU from which others move a kept
    segment, 0 for none; like the released code, only where classes are not kept apart.
    """

    method: Literal["soft", "hard", "none"] = "soft"
    iou: float = 0.1
    sigma: float = 0.5
    min_score: float = 0.001
    most: int = 200
    by_class: bool = True
    vote: float = 0.7

    def __call__(
        self, segments: Segment, scores: Float[Tensor, "A"], labels: Int[Tensor, "A"]
    ) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n"], Int[Tensor, "n"]]:
        """Segments, scores and classes that remain, from the best score."""
        if self.method == "hard":  # it changes no score, so that what is too low can go before
            high = scores > self.min_score
            segments, scores, labels = segments[high], scores[high], labels[high]
        groups = [(labels == label).nonzero()[:, 0] for label in labels.unique()] if self.by_class else []
        if not self.by_class and len(labels):
            groups = [torch.arange(len(labels))]
        parts = [(group, *self._of_one(segments[group], scores[group])) for group in groups]
        rows = torch.cat([group[kept] for group, kept, _ in parts]) if parts else labels[:0]
        found = torch.cat([left for *_, left in parts]) if parts else scores[:0]
        moved = segments[rows]
        if not self.by_class and self.vote > 0 and self.method != "none":
            moved = vote(moved, segments, scores, self.vote)
        order = found.argsort(descending=True, stable=True)[: self.most]
        return moved[order], found[order], labels[rows][order]

    def _of_one(self, segments: Segment, scores: Float[Tensor, "A"]) -> Kept:
        if self.method == "hard":
            return hard_nms(segments, scores, self.iou, self.most)
        if self.method == "soft":
            return soft_nms(segments, scores, self.sigma, self.min_score, self.most)
        order = scores.argsort(descending=True, stable=True)
        return order, scores[order]


def with_classes_of_video(
    segments: Segment, scores: Float[Tensor, "A"], of_video: Float[Tensor, "K"], top: int = 2
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n"], Int[Tensor, "n"]]:
    """Class-agnostic detections with the classes of a classifier of whole videos: A times `top` detections.

    Each detection is given each of the `top` best classes, and the root of the product of both scores
    (released, for ActivityNet and FineAction). UserError where a score of the classifier is outside [0, 1].
    """
    if len(of_video) == 0 or not bool(((of_video >= 0) & (of_video <= 1)).all()):
        raise UserError(
            "expected scores from 0 to 1 for each class of a video, got others; take their softmax"
        )
    best, classes = of_video.topk(min(top, len(of_video)))
    joint = torch.sqrt(best[:, None] * scores[None]).flatten()
    order = joint.argsort(descending=True, stable=True)
    labels = classes.repeat_interleave(len(scores))
    return segments.repeat(len(best), 1)[order], joint[order], labels[order]


def _best_first(
    segments: Segment, left: Float[Tensor, "A"], suppress: Callable[[Tensor], None], most: int
) -> Int[Tensor, "n"]:
    """Rows in the order in which they are taken: the best of `left`, which `suppress` lowers each time."""
    # One row of overlaps at a time: a two-hour video has ten thousand candidates, and a matrix of all pairs
    # would need gigabytes for the few hundred rows that are taken.
    lengths = segments[:, 1] - segments[:, 0] + LEAST_LENGTH
    rows: list[int] = []
    while len(rows) < min(most, len(left)):
        best = int(left.argmax())
        if left[best] == -torch.inf:
            break
        rows.append(best)
        left[best] = -torch.inf
        shared = _shared(segments[best], segments)
        suppress(shared / (lengths[best] + lengths - shared))
    return torch.tensor(rows, dtype=torch.int64)


def _shared(first: Tensor, second: Tensor) -> Tensor:
    """Length of the intersection of (start, end) pairs, broadcast."""
    ends = torch.minimum(first[..., 1], second[..., 1])
    return (ends - torch.maximum(first[..., 0], second[..., 0])).clamp(min=0)
