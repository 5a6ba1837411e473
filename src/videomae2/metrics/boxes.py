"""Average precision of boxes in key frames, as the official AVA evaluator has it, and of tubes in videos.

Rows are flat arrays: a detection is one box with one class and one score. The rule is PASCAL's (2010 on):
detections of a class are ranked by score over all frames, each is compared with the true box of its frame and
class that it overlaps most, the first that overlaps it enough is right, and every other one is wrong.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from videomae2.box_overlap import pair_iou
from videomae2.errors import UserError
from videomae2.records import Failure

IOU = 0.5
"""Overlap from which a box of a frame is right (AVA; PASCAL)."""
TUBE_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Thresholds of the mean that is written 0.5:0.95."""


@dataclass(frozen=True)
class BoxRows:
    """N boxes of numbered frames, and n rows (box, class, score); truths have no score.

    frame int64 [N]; xyxy float64 [N, 4]; box, label int64 [n]; score float64 [n] or None. A box may have any
    number of rows, so that 60 classes of a box share its four numbers.
    """

    frame: np.ndarray
    xyxy: np.ndarray
    box: np.ndarray
    label: np.ndarray
    score: np.ndarray | None = None

    def __post_init__(self) -> None:
        wrong = self.xyxy.shape != (len(self.frame), 4) or len(self.box) != len(self.label)
        if wrong or (self.score is not None and len(self.score) != len(self.box)):
            shapes = [np.shape(each) for each in (self.frame, self.xyxy, self.box, self.label)]
            raise UserError(f"expected N frames, [N, 4] boxes, and n boxes, labels and scores, got {shapes}")

    @classmethod
    def listed(cls, frame: Any, xyxy: Any, label: Any, score: Any = None) -> "BoxRows":
        """One row a box, as CSV files have them."""
        boxes = np.asarray(xyxy, np.float64).reshape(-1, 4)
        scores = None if score is None else np.asarray(score, np.float64)
        frames, labels = np.asarray(frame, np.int64), np.asarray(label, np.int64)
        return cls(frames, boxes, np.arange(len(boxes)), labels, scores)

    @classmethod
    def of_all_classes(cls, frame: np.ndarray, xyxy: np.ndarray, scores: np.ndarray) -> "BoxRows":
        """Every box with every class, from scores [N, K]."""
        count, classes = scores.shape
        box, label = np.repeat(np.arange(count), classes), np.tile(np.arange(classes), count)
        return cls(frame, xyxy, box, label, scores.reshape(-1))


@dataclass(frozen=True)
class ClassAP:
    """One class: true boxes, detections, and the average precision; None where no true box has the class."""

    label: int
    truths: int
    detections: int
    ap: float | None


def mean_ap(classes: Iterable[ClassAP]) -> float:
    """The mean over the classes that have a true box (official); 0 where none has."""
    found = [each.ap for each in classes if each.ap is not None]
    return float(np.mean(found)) if found else 0.0


def frame_ap(truth: BoxRows, found: BoxRows, num_classes: int, threshold: float = IOU) -> list[ClassAP]:
    """Average precision of each class over all frames.

    As official: detections whose box has no area are dropped, true ones are not; a class without a true box
    has no value; a class without detections has 0; a detection in a frame without truths is wrong. Of equal
    scores the later row ranks first, which is what the official reversed `argsort` gives wherever its sort is
    stable.
    """
    found = _with_area(found)
    right = _right(truth, found, num_classes, threshold)
    return _per_class(truth.label, found.label, found.score, right, num_classes)


def box_recall(truth: BoxRows, found: BoxRows, threshold: float = IOU) -> float:
    """Share of the true boxes that some found box of the frame overlaps enough, whatever their classes.

    What a detector of people is judged by, apart from the actions; 0 where there is no true box.
    """
    places, starts, counts = _partners(truth.frame, found.frame)
    if not len(truth.frame) or not len(places):
        return 0.0
    first = np.repeat(np.arange(len(truth.frame)), counts)
    overlap = _iou(truth.xyxy[first], found.xyxy[places[_runs(starts, counts)]])
    return len(np.unique(first[overlap >= threshold])) / len(truth.frame)


def _with_area(found: BoxRows) -> BoxRows:
    assert found.score is not None, "detections have scores"
    has = (found.xyxy[:, 0] < found.xyxy[:, 2]) & (found.xyxy[:, 1] < found.xyxy[:, 3])
    keep = has[found.box]
    if keep.all():
        return found
    return BoxRows(found.frame, found.xyxy, found.box[keep], found.label[keep], found.score[keep])


def _right(truth: BoxRows, found: BoxRows, num_classes: int, threshold: float) -> np.ndarray:
    """Whether each detection is right: bool [n]."""
    right = np.zeros(len(found.box), dtype=bool)
    keys = [each.frame[each.box] * num_classes + each.label for each in (found, truth)]
    places, starts, counts = _partners(*keys)
    # Most detections are of classes that the frame does not show: only the others are compared at all.
    rows = np.flatnonzero(counts)
    if not len(rows):
        return right
    starts, counts = starts[rows], counts[rows]
    pairs = _runs(starts, counts)
    one = np.repeat(rows, counts)
    overlap = _iou(found.xyxy[found.box[one]], truth.xyxy[truth.box[places[pairs]]])
    best, which = _first_largest(overlap, counts)
    enough = best >= threshold
    rows, chosen = rows[enough], places[pairs[which[enough]]]
    # A true box belongs to the best-ranked detection that chose it; so no order but the ranking matters.
    rank = _ranking(found.score[rows])  # type: ignore[index]
    _, first = np.unique(chosen[rank], return_index=True)
    right[rows[rank[first]]] = True
    return right


def _partners(keys: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each key, where its equals stand among `others`: an order of them, first places in it, counts."""
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    starts = np.searchsorted(ordered, keys, "left")
    return order, starts, np.searchsorted(ordered, keys, "right") - starts


def _runs(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, ... for each start, one run after another."""
    ends = np.cumsum(counts)
    runs: np.ndarray = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts - starts, counts)
    return runs


def _first_largest(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest value of each run and its place; of equals the first, as argmax has it."""
    starts = np.cumsum(counts) - counts
    best = np.maximum.reduceat(values, starts)
    places = np.where(values == np.repeat(best, counts), np.arange(len(values)), len(values))
    return best, np.minimum.reduceat(places, starts)


def _iou(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    overlap: np.ndarray = pair_iou(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    return overlap


def _ranking(scores: np.ndarray) -> np.ndarray:
    """From the best score to the worst; of equals the later first."""
    order: np.ndarray = np.argsort(scores, kind="stable")[::-1]
    return order


def _per_class(
    truths: np.ndarray, labels: np.ndarray, scores: np.ndarray | None, right: np.ndarray, num_classes: int
) -> list[ClassAP]:
    assert scores is not None, "detections have scores"
    listed = np.bincount(truths, minlength=num_classes)
    order = _ranking(scores)
    # Stable, so that each class keeps the ranking; then the classes are stretches of one array.
    order = order[np.argsort(labels[order], kind="stable")]
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    result = []
    for label in range(num_classes):
        mine = right[order[ends[label - 1] if label else 0 : ends[label]]]
        value = average_precision(mine, int(listed[label])) if listed[label] else None
        result.append(ClassAP(label, int(listed[label]), len(mine), value))
    return result


def average_precision(right: Bool[np.ndarray, "n"], truths: int) -> float:
    """Area under precision over recall, precision made non-increasing from the right (PASCAL 2010 on).

    `right` says of each detection, best first, whether it is; `truths` is how many there were to find.
    """
    if not len(right):
        return 0.0
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / truths
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


# ---- key frames of a manifest, scored by several processes


@dataclass(frozen=True)
class BoxReport:
    """What an evaluation of key frames found.

    mean: frame mAP at IoU 0.5. recall: share of the true boxes that had a box to be scored. `failed` key
    frames could not be read: their truths count as missed.
    """

    mean: float
    classes: tuple[ClassAP, ...]
    recall: float
    evaluated: int
    failed: int
    listed: int

    def __str__(self) -> str:
        return (
            f"frame mAP@0.5 {100 * self.mean:.2f} %, boxes found {100 * self.recall:.2f} % "
            f"({self.evaluated} evaluated, {self.failed} failed, {self.listed} listed key frames; "
            "what failed counts as missed)"
        )


@dataclass
class FrameScores:
    """Scores of boxes by key frame, mergeable across processes; the truths of every listed frame are known.

    truth: one row a (box, class), its `frame` the row of the manifest. listed: how many key frames there are.
    """

    truth: BoxRows
    num_classes: int
    listed: int
    boxes: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)

    def update(self, row: int, xyxy: Float[Tensor, "A 4"], scores: Float[Tensor, "A K"]) -> None:
        """The scored boxes of one key frame, in the unit of the truths; a frame counts once.

        UserError where the number of classes is another one.
        """
        if scores.shape[1] != self.num_classes:
            raise UserError(
                f"expected {self.num_classes} scores for each box, got {scores.shape[1]}; evaluate the model "
                "on its own classes"
            )
        self.boxes[row] = (xyxy.double().cpu().numpy(), scores.double().cpu().numpy())

    def fail(self, failures: Iterable[Failure]) -> None:
        """Record key frames that could not be read; what they show counts as missed."""
        for failure in failures:
            self.failures.setdefault(failure.row, failure)

    def state_dict(self) -> dict[str, Any]:
        """What another process needs to merge these scores; the truths are the same for all."""
        return {"boxes": self.boxes, "failures": self.failures}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another process scored."""
        self.boxes |= state["boxes"]
        self.fail(state["failures"].values())

    def found(self) -> BoxRows:
        """All scored boxes as rows, in the order of the manifest, whatever process scored them."""
        rows = sorted(row for row in self.boxes if row not in self.failures)
        if not rows:
            none = np.zeros(0, dtype=np.int64)
            return BoxRows(none, np.zeros((0, 4)), none, none, np.zeros(0))
        frame = np.repeat(rows, [len(self.boxes[row][0]) for row in rows])
        boxes, scores = (np.concatenate([self.boxes[row][part] for row in rows]) for part in (0, 1))
        # A NaN has no rank: it is the worst score, and the rest can still be told.
        return BoxRows.of_all_classes(frame, boxes, np.nan_to_num(scores, nan=-np.inf))

    def hardest(self, count: int) -> list[tuple[int, float]]:
        """The scored key frames that cost most, and what each costs.

        That is what is missing from the scores of the annotated actions, and all that other actions have.
        """
        order = np.argsort(self.truth.frame[self.truth.box], kind="stable")
        frames = self.truth.frame[self.truth.box[order]]
        costs = []
        for row, (xyxy, scores) in self.boxes.items():
            labels = order[np.searchsorted(frames, row, "left") : np.searchsorted(frames, row, "right")]
            wanted = np.zeros((len(labels), self.num_classes), dtype=bool)
            wanted[np.arange(len(labels)), self.truth.label[labels]] = True
            left, right = (
                np.repeat(xyxy, len(labels), 0),
                np.tile(self.truth.xyxy[self.truth.box[labels]], (len(xyxy), 1)),
            )
            near = (_iou(left, right) >= IOU).reshape(len(xyxy), len(labels))
            hot = (near[:, :, None] & wanted[None]).any(1)
            best = (near[:, :, None] & wanted[None]) * scores[:, None]
            missing = 1 - best.max((0, 2), initial=0.0)
            costs.append((row, float(missing.sum() + scores[~hot].sum())))
        return sorted(costs, key=lambda each: (-each[1], each[0]))[:count]

    def report(self) -> BoxReport:
        """Frame mAP, its table, the share of boxes found, and the counts of key frames."""
        found = self.found()
        classes = frame_ap(self.truth, found, self.num_classes)
        recall = box_recall(self.truth, found)
        failed = len(self.failures)
        scored = len(self.boxes.keys() - self.failures.keys())
        return BoxReport(mean_ap(classes), tuple(classes), recall, scored, failed, self.listed)


# ---- tubes


@dataclass(frozen=True)
class Tube:
    """One actor doing one thing: frames int64 [T], ascending, and a box [T, 4] at each. Truths score 1."""

    video: str
    label: int
    frames: Int[np.ndarray, "T"]
    xyxy: Float[np.ndarray, "T 4"]
    score: float = 1.0


def tube_iou(left: Tube, right: Tube) -> float:
    """Overlap in time times the mean overlap of the boxes in the frames that both have (ACT, 2017)."""
    shared, ours, theirs = np.intersect1d(left.frames, right.frames, assume_unique=True, return_indices=True)
    if not len(shared) or left.video != right.video:
        return 0.0
    union = len(left.frames) + len(right.frames) - len(shared)
    overlap = _iou(np.asarray(left.xyxy[ours], np.float64), np.asarray(right.xyxy[theirs], np.float64))
    return float(len(shared) / union * overlap.mean())


def video_ap(
    truth: Sequence[Tube], found: Sequence[Tube], num_classes: int, threshold: float
) -> list[ClassAP]:
    """Average precision of tubes, by class.

    Each detection, best first, takes the true tube of its video and class that it overlaps most of those not
    yet taken (ACT, 2017); then as for frames.
    """
    return _tubes_ap(truth, found, num_classes, (threshold,))[0]


def video_map(truth: Sequence[Tube], found: Sequence[Tube], num_classes: int) -> dict[str, float]:
    """Video mAP at 0.2 and 0.5, and the mean over 0.5, 0.55, ..., 0.95."""
    thresholds = (0.2, *TUBE_IOUS)
    means = [mean_ap(each) for each in _tubes_ap(truth, found, num_classes, thresholds)]
    return {"0.2": means[0], "0.5": means[1], "0.5:0.95": float(np.mean(means[1:]))}


def _tubes_ap(
    truth: Sequence[Tube], found: Sequence[Tube], num_classes: int, thresholds: Sequence[float]
) -> list[list[ClassAP]]:
    places: dict[tuple[str, int], list[int]] = {}
    for place, tube in enumerate(truth):
        places.setdefault((tube.video, tube.label), []).append(place)
    scores = np.array([tube.score for tube in found], np.float64)
    rank = _ranking(scores)
    # Once for all thresholds: the overlaps cost, the choice does not.
    overlaps = {
        int(one): {
            p: tube_iou(found[one], truth[p]) for p in places.get((found[one].video, found[one].label), [])
        }
        for one in rank
    }
    true, ours = (np.array([tube.label for tube in tubes], np.int64) for tubes in (truth, found))
    result = []
    for threshold in thresholds:
        taken: set[int] = set()
        right = np.zeros(len(found), dtype=bool)
        for one in rank.tolist():
            left = {place: value for place, value in overlaps[one].items() if place not in taken}
            best = max(left, key=lambda place: left[place], default=None)
            if best is not None and left[best] >= threshold:
                taken.add(best)
                right[one] = True
        result.append(_per_class(true, ours, scores, right, num_classes))
    return result
