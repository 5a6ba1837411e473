"""Temporal detection: mAP over tIoU thresholds as the official evaluators have it; kinds of false positives.

The rules are those of the ActivityNet evaluator, which THUMOS14, MultiTHUMOS and FineAction use with other
thresholds (paper 4.3): predictions of a class in order of their scores, each takes the best free true segment
of its video, and precision is made monotonous before it is integrated over recall.
"""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from videomae2.errors import UserError
from videomae2.labels import Segments

THUMOS14 = tuple(np.linspace(0.3, 0.7, 5).tolist())
"""The tIoU thresholds of THUMOS14 and MultiTHUMOS-style tables: 0.3, 0.4, 0.5, 0.6, 0.7."""
ACTIVITYNET = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""Those of ActivityNet and FineAction: 0.5, 0.55 ... 0.95, with its digits (0.8999999999999999)."""

KINDS = ("true", "duplicate", "localisation", "class", "class and localisation", "background")
"""What a prediction is, in the order of `Profile.shares`."""
OVERLAPS_AT_ALL = 0.1
"""Below this tIoU a prediction has nothing to do with a segment (DETAD, ECCV 2018)."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SegmentMap:
    """Average precision of K classes at T thresholds.

    precision: float64 [K, T], NaN for a class without a true segment. truths, predictions: int [K], how many
    there are of each class. Videos that failed count with all their segments as missed.
    """

    tious: tuple[float, ...]
    precision: Array = field(repr=False)
    truths: Array = field(repr=False)
    predictions: Array = field(repr=False)
    evaluated: int
    failed: int
    listed: int

    @property
    def at(self) -> tuple[float, ...]:
        """MAP at each threshold: the mean over the classes that have a true segment."""
        return tuple(self.precision[self.truths > 0].mean(axis=0).tolist())

    @property
    def average(self) -> float:
        """The mean of `at`: the "average mAP" of the tables."""
        return float(np.mean(self.at))

    def table(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """One row a class: name, numbers of true segments and of predictions, AP (None without truth)."""
        rows = zip(class_names, self.truths, self.predictions, self.precision, strict=True)
        return [
            {
                "class": name,
                "segments": int(truths),
                "predictions": int(predictions),
                "average": float(values.mean()) if truths else None,
                **{
                    f"{tiou:.2f}": float(ap) if truths else None
                    for tiou, ap in zip(self.tious, values, strict=True)
                },
            }
            for name, truths, predictions, values in rows
        ]

    def __str__(self) -> str:
        each = ", ".join(
            f"{value:.4f} at {tiou:.2f}" for tiou, value in zip(self.tious, self.at, strict=True)
        )
        return (
            f"average mAP {self.average:.4f} ({each}; {self.evaluated} evaluated, {self.failed} failed, "
            f"{self.listed} listed; failed videos count as missed)"
        )


def segment_map(
    truth: Segments,
    predicted: Segments,
    num_classes: int,
    tious: Sequence[float] = THUMOS14,
    failed: Collection[int] = (),
) -> SegmentMap:
    """MAP of the predictions in M videos, equal to the official evaluators' to the last digits.

    truth, predicted: segments of the same M videos, labelled 0 .. num_classes - 1; predictions have scores.
    failed: numbers of videos that could not be read. UserError where nothing is true, or labels or scores are
    missing or no numbers.
    """
    truths, found = (
        _Rows.of(truth, num_classes, "true segments"),
        _Rows.of(predicted, num_classes, "predictions"),
    )
    _check(truths, found, predicted, tious, failed, len(truth))
    found = found[found.ranking(num_classes)]
    hits = _matched(truths, found, np.asarray(tious, dtype=np.float64))
    number = np.bincount(truths.label, minlength=num_classes)
    precision = np.full((num_classes, len(tious)), np.nan)
    # Ranked by class first, so that each class is one slice.
    ends = np.searchsorted(found.label, np.arange(num_classes), "right")
    starts = np.searchsorted(found.label, np.arange(num_classes), "left")
    for label in np.flatnonzero(number):
        precision[label] = _average_precision(hits[:, starts[label] : ends[label]], int(number[label]))
    return SegmentMap(
        tuple(tious), precision, number, ends - starts, len(truth) - len(failed), len(failed), len(truth)
    )


@dataclass(frozen=True)
class Profile:
    """What the best-scored predictions are, by kind: shares float64 [10, 6], a row for each multiple.

    Row g - 1 is about the g * N best predictions of each class with N true segments, as in DETAD: at 1 a
    perfect detector has only true ones. The kinds are `KINDS`, at tIoU `tiou`.
    """

    tiou: float
    shares: Array = field(repr=False)

    def table(self) -> list[dict[str, Any]]:
        """One row a multiple of the number of true segments, with the share of each kind."""
        return [
            {"predictions": f"{row} N", **dict(zip(KINDS, shares.tolist(), strict=True))}
            for row, shares in enumerate(self.shares, 1)
        ]


def false_positives(
    truth: Segments, predicted: Segments, num_classes: int, tiou: float = 0.5, multiples: int = 10
) -> Profile:
    """Tell why predictions are wrong: another class, wrong ends, both, twice the same, or nothing there.

    With a true segment of its class, a prediction overlaps enough but comes second (duplicate) or overlaps by
    at least 0.1 (localisation); failing that, it may do either with a segment of another class (class; class
    and localisation); the rest is background.
    """
    truths, found = (
        _Rows.of(truth, num_classes, "true segments"),
        _Rows.of(predicted, num_classes, "predictions"),
    )
    _check(truths, found, predicted, (tiou,), (), len(truth))
    number = np.bincount(truths.label, minlength=num_classes)
    found = found[found.ranking(num_classes)]
    place = np.arange(len(found.label)) - np.searchsorted(found.label, found.label, "left")
    kept = place < multiples * number[found.label]
    found, place = found[kept], place[kept]
    true = _matched(truths, found, np.array([tiou]))[0]
    own, other = _best_overlaps(truths, found)
    kinds = np.select(
        [true, own >= tiou, own >= OVERLAPS_AT_ALL, other >= tiou, other >= OVERLAPS_AT_ALL], range(5), 5
    )
    group = place // number[found.label]
    counts = np.zeros((multiples, len(KINDS)))
    np.add.at(counts, (group, kinds), 1)
    counts = counts.cumsum(axis=0)
    return Profile(tiou, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


@dataclass(frozen=True)
class _Rows:
    """Segments as columns: video, class, start, end and score."""

    video: Array
    label: Array
    start: Array
    end: Array
    score: Array

    @classmethod
    def of(cls, segments: Segments, num_classes: int, what: str) -> "_Rows":
        labels = segments.labels
        if labels is None or labels.ndim != 1:
            raise UserError(f"expected {what} with one class each, got {segments}; give labels int64 [A]")
        label = labels.cpu().numpy()
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < num_classes:
            raise UserError(
                f"expected {what} of classes 0..{num_classes - 1}, got {label.min()}..{label.max()}; "
                "give num_classes as many as there are"
            )
        # float64 whatever came: the thresholds are compared in it, and so does the evaluator.
        start, end = segments.seconds.cpu().double().numpy().T
        score = np.zeros(len(label)) if segments.scores is None else segments.scores.cpu().double().numpy()
        return cls(segments.clip.cpu().numpy(), label, start, end, score)

    def __getitem__(self, which: Array) -> "_Rows":
        return _Rows(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def ranking(self, num_classes: int) -> Array:
        """Rows by class, then from the best score, with the evaluator's order of equal scores."""
        # That is what numpy's unstable sort leaves, reversed. It matters: with rounded scores, a stable sort
        # moves the AP of a class by up to 0.009. It also depends on the kind of CPU, theirs as ours.
        by_class = np.argsort(self.label, kind="stable")
        ends = np.cumsum(np.bincount(self.label, minlength=num_classes))
        parts = np.split(by_class, ends[:-1])
        return np.concatenate([rows[np.argsort(self.score[rows])[::-1]] for rows in parts])


def _check(  # noqa: PLR0917
    truths: _Rows,
    found: _Rows,
    predicted: Segments,
    tious: Sequence[float],
    failed: Collection[int],
    videos: int,
) -> None:
    if len(truths.label) == 0:
        raise UserError(
            "expected true segments to measure against, got none; name annotations that have some"
        )
    if len(predicted) != videos:
        raise UserError(f"expected predictions of the same {videos} videos, got those of {len(predicted)}")
    if predicted.scores is None:
        raise UserError("expected predictions with scores, got none: their order decides the precision")
    if not (
        np.isfinite(found.score).all() and np.isfinite(found.start).all() and np.isfinite(found.end).all()
    ):
        raise UserError("expected predictions with finite scores, starts and ends, got one that is not")
    if not tious or not all(0 < tiou <= 1 for tiou in tious):
        raise UserError(f"expected tIoU thresholds above 0 and up to 1, got {list(tious)}")
    wrong = [row for row in failed if not 0 <= row < videos]
    if wrong:
        raise UserError(f"expected failed videos 0..{videos - 1}, got {wrong[0]}")


def _pairs(of_predictions: Array, of_truths: Array) -> tuple[Array, Array]:
    """Every (prediction, true segment) with the same key, by prediction."""
    order = np.argsort(of_truths, kind="stable")
    keys = of_truths[order]
    first = np.searchsorted(keys, of_predictions, "left")
    count = np.searchsorted(keys, of_predictions, "right") - first
    prediction = np.repeat(np.arange(len(of_predictions)), count)
    # Places 0, 1, ... within the pairs of each prediction.
    place = np.arange(len(prediction)) - np.repeat(np.cumsum(count) - count, count)
    return prediction, order[np.repeat(first, count) + place]


def _overlap(truths: _Rows, found: _Rows, prediction: Array, truth: Array) -> Array:
    """Overlap of pairs, in the evaluator's order of operations; of two instants it is 1 if they are the same.

    The evaluator divides 0 by 0 there and takes the NaN, which is below no threshold, for a hit. Equal
    instants occur in ActivityNet's annotations; two different ones are no hit here.
    """
    t0, t1, p0, p1 = truths.start[truth], truths.end[truth], found.start[prediction], found.end[prediction]
    shared = np.maximum(np.minimum(p1, t1) - np.maximum(p0, t0), 0)
    union = (t1 - t0) + (p1 - p0) - shared
    overlap: Array = np.divide(shared, union, out=(p0 == t0).astype(np.float64), where=union > 0)
    return overlap


def _matched(truths: _Rows, found: _Rows, tious: Array) -> Array:
    """Whether each ranked prediction takes a true segment, at each threshold: bool [T, P].

    Only predictions of one class in one video compete for a segment. So the first of all such groups are
    matched at once, then the second ones, and so on: as many rounds as the longest group has candidates.
    """
    videos = 1 + max(truths.video.max(initial=0), found.video.max(initial=0))
    group = found.label * videos + found.video
    prediction, truth = _pairs(group, truths.label * videos + truths.video)
    overlap = _overlap(truths, found, prediction, truth)
    near = overlap >= tious.min()
    prediction, truth, overlap = prediction[near], truth[near], overlap[near]
    candidates, of_pair = np.unique(prediction, return_inverse=True)
    by_group = np.argsort(group[candidates], kind="stable")
    sorted_groups = group[candidates][by_group]
    turn = np.empty(len(candidates), dtype=np.int64)
    turn[by_group] = np.arange(len(candidates)) - np.searchsorted(sorted_groups, sorted_groups, "left")
    # Within a prediction the best overlap first, of equal ones the later segment, as in the evaluator.
    order = np.lexsort((-truth, -overlap, prediction, turn[of_pair]))
    prediction, truth, overlap, turn = prediction[order], truth[order], overlap[order], turn[of_pair][order]
    hits = np.zeros((len(tious), len(found.label)), dtype=bool)
    taken = np.zeros((len(tious), len(truths.label)), dtype=bool)
    rounds = np.searchsorted(turn, np.arange(2 + turn.max(initial=-1)), "left").tolist()
    for start, end in itertools.pairwise(rounds):
        part = slice(start, end)
        free = (overlap[part] >= tious[:, None]) & ~taken[:, truth[part]]
        firsts = np.flatnonzero(np.diff(prediction[part], prepend=-1))
        places = np.where(free, np.arange(end - start), end - start)
        best = np.minimum.reduceat(places, firsts, axis=1)
        threshold, which = np.nonzero(best < end - start)
        taken[threshold, truth[part][best[threshold, which]]] = True
        hits[threshold, prediction[part][firsts][which]] = True
    return hits


def _average_precision(hits: Array, truths: int) -> Array:
    """Area under the interpolated precision of ranked predictions, for each row of `hits` [T, P]."""
    if hits.shape[1] == 0:
        return np.zeros(len(hits))
    right = hits.cumsum(axis=1, dtype=np.float64)
    precision = right / np.arange(1, hits.shape[1] + 1)
    # The best precision at this recall or any higher one.
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.concatenate([np.zeros((len(hits), 1)), right / truths], axis=1)
    area: Array = (np.diff(recall, axis=1) * envelope).sum(axis=1)
    return area


def _best_overlaps(truths: _Rows, found: _Rows) -> tuple[Array, Array]:
    """The largest tIoU of each prediction with a segment of its class, and with one of any other class."""
    prediction, truth = _pairs(found.video, truths.video)
    overlap = _overlap(truths, found, prediction, truth)
    same = found.label[prediction] == truths.label[truth]
    best = np.zeros((2, len(found.label)))
    np.maximum.at(best, ((~same).astype(np.int64), prediction), overlap)
    return best[0], best[1]
