"""mAP of segments: official evaluators' answers, a plain evaluator on random cases, false positives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videomae2.errors import UserError
from videomae2.labels import Segments
from videomae2.metrics.segments import ACTIVITYNET, KINDS, THUMOS14, false_positives, segment_map

ANSWERS = {
    "tad_thumos14_jitter": ("gt.json", "pred.json", "expected.json"),
    "anet_mmaction2": ("gt_official_format.json", "result_official_format.json", "expected_official.json"),
    "anet_official_sample": ("gt_val_from_bmn.json", "pred_official_sample.json", "expected.json"),
}

Found = list[tuple[int, float, float, float]]
"""Predictions of a video: class, start, end, score; true segments have any score."""


def segments(videos: list[Found], scored: bool = True) -> Segments:
    rows = [row for video in videos for row in video]
    return Segments(
        seconds=torch.tensor([row[1:3] for row in rows], dtype=torch.float64).reshape(-1, 2),
        counts=torch.tensor([len(video) for video in videos]),
        labels=torch.tensor([row[0] for row in rows], dtype=torch.int64),
        scores=torch.tensor([row[3] for row in rows], dtype=torch.float64) if scored else None,
    )


@pytest.mark.parametrize("name", ANSWERS)
def test_the_official_evaluators_answers(shared_data: Path, name: str) -> None:
    truth, predicted, expected = (
        json.loads((shared_data / "evaluation" / name / file).read_text()) for file in ANSWERS[name]
    )
    database = truth["database"].items()
    listed = {v: row["annotations"] for v, row in database if row["subset"] == expected["subset"]}
    results: dict[str, list[dict[str, Any]]] = predicted["results"]
    classes = sorted(expected["per_class"])

    def of(rows: list[dict[str, Any]]) -> Found:
        return [(classes.index(r["label"]), *map(float, r["segment"]), r.get("score", 0.0)) for r in rows]

    # In the order of the predictions: of equal scores, of which a rounded file is full, the place decides.
    order = [*results, *(video for video in listed if video not in results)]
    found = segment_map(
        segments([of(listed.get(video, [])) for video in order], scored=False),
        segments([of(results.get(video, [])) for video in order]),
        len(classes),
        expected["tiou"],
    )
    assert found.average == pytest.approx(expected["average_mAP"], abs=1e-9)
    assert found.at == pytest.approx(expected["mAP"], abs=1e-9)
    for label, ap in zip(classes, found.precision, strict=True):
        assert ap == pytest.approx(expected["per_class"][label], abs=1e-9), label
    table = {row["class"]: row["average"] for row in found.table(classes)}
    assert table[classes[0]] == pytest.approx(np.mean(expected["per_class"][classes[0]]), abs=1e-9)


def plain_map(truth: list[Found], predicted: list[Found], label: int, tiou: float) -> float:
    """Average precision of one class at one threshold, written down as the evaluator's rules are told."""
    rows = [
        (row[3], v, row[1], row[2]) for v, video in enumerate(predicted) for row in video if row[0] == label
    ]
    free = {v: [(a, b) for c, a, b, _ in video if c == label] for v, video in enumerate(truth)}
    total = sum(map(len, free.values()))
    hits = []
    for _, v, start, end in sorted(rows, key=lambda row: -row[0]):
        best, choice = 0.0, None
        for a, b in free[v]:
            shared = max(0.0, min(end, b) - max(start, a))
            union = (b - a) + (end - start) - shared
            overlap = shared / union if union > 0 else float(start == a)
            if overlap >= tiou and overlap >= best:
                best, choice = overlap, (a, b)
        if choice is not None:
            free[v].remove(choice)
        hits.append(choice is not None)
    right = np.cumsum([0, *hits])
    area = 0.0
    for n, hit in enumerate(hits):
        if hit:
            area += max(right[k + 1] / (k + 1) for k in range(n, len(hits))) / total
    return area


times = st.integers(0, 12)
rows = st.tuples(st.integers(0, 2), times, times).map(lambda r: (r[0], float(min(r[1:])), float(max(r[1:]))))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(rows, max_size=5), st.lists(rows, max_size=7)), min_size=1, max_size=4),
    st.randoms(),
)
def test_a_plain_evaluator_agrees_on_random_cases(videos: list[Any], random: Any) -> None:
    truth = [[(*row, 0.0) for row in here] for here, _ in videos]
    # All scores differ, so that no order of equal ones is left to chance; overlaps are still full of ties.
    scores = random.sample(range(100), sum(len(found) for _, found in videos))
    predicted = [[(*row, float(scores.pop())) for row in found] for _, found in videos]
    if not any(truth):
        with pytest.raises(UserError, match="expected true segments to measure against, got none"):
            segment_map(segments(truth), segments(predicted), 3)
        return
    result = segment_map(segments(truth, scored=False), segments(predicted), 3, (0.3, 0.7))
    for label in range(3):
        for column, tiou in enumerate((0.3, 0.7)):
            if result.truths[label]:
                expected = plain_map(truth, predicted, label, tiou)
                assert result.precision[label, column] == pytest.approx(expected, abs=1e-12)
            else:
                assert np.isnan(result.precision[label, column])


TRUTH: list[Found] = [[(0, 0.0, 10.0, 0.0), (1, 20.0, 30.0, 0.0)], [(0, 5.0, 6.0, 0.0)], []]


def test_a_missed_video_lowers_recall_and_a_class_without_truth_counts_nowhere() -> None:
    predicted: list[Found] = [[(0, 0.0, 10.0, 0.9), (1, 20.0, 30.0, 0.8), (2, 0.0, 1.0, 0.99)], [], []]
    found = segment_map(segments(TRUTH, scored=False), segments(predicted), 3, failed=[1])
    assert found.at == pytest.approx([(0.5 + 1.0) / 2] * 5)
    assert (found.evaluated, found.failed, found.listed) == (2, 1, 3)
    assert "2 evaluated, 1 failed, 3 listed" in str(found)
    assert found.table(["a", "b", "c"])[2]["average"] is None
    assert found.tious == THUMOS14 and ACTIVITYNET[8] == 0.8999999999999999


def test_each_false_positive_has_its_kind() -> None:
    predicted: list[Found] = [
        [
            (0, 0.0, 10.0, 0.9),  # true
            (0, 0.0, 9.0, 0.8),  # the same segment again
            (0, 7.0, 17.0, 0.7),  # tIoU 0.18
            (0, 20.0, 29.0, 0.6),  # the segment of class 1
            (0, 25.0, 39.0, 0.5),  # a part of it
            (0, 40.0, 50.0, 0.4),  # nothing is there
        ],
        [],
        [],
    ]
    profile = false_positives(segments(TRUTH, scored=False), segments(predicted), 2)
    # Class 0 has two true segments: the first row is about its two best predictions, the third about all six.
    assert profile.shares[0] == pytest.approx([0.5, 0.5, 0, 0, 0, 0])
    assert profile.shares[2] == pytest.approx([1 / 6] * 6)
    assert set(KINDS) < set(profile.table()[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": None}, "expected predictions with scores, got none"),
        ({"scores": torch.tensor([float("nan")])}, "expected predictions with finite scores"),
        ({"labels": torch.tensor([3])}, r"expected predictions of classes 0\.\.2, got 3\.\.3"),
        ({"labels": None}, "expected predictions with one class each"),
        ({"counts": torch.tensor([1])}, "expected predictions of the same 3 videos, got those of 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], message: str) -> None:
    plain: dict[str, Any] = {
        "seconds": torch.tensor([[0.0, 1.0]]),
        "counts": torch.tensor([1, 0, 0]),
        "labels": torch.tensor([0]),
        "scores": torch.tensor([0.5]),
    }
    with pytest.raises(UserError, match=message):
        segment_map(segments(TRUTH, scored=False), Segments(**(plain | change)), 3)


def test_thresholds_and_failed_videos_that_cannot_be() -> None:
    truth, predicted = segments(TRUTH, scored=False), segments([[(0, 0.0, 1.0, 0.5)], [], []])
    with pytest.raises(UserError, match=r"expected tIoU thresholds above 0 and up to 1, got \[0\.5, 1\.5\]"):
        segment_map(truth, predicted, 3, (0.5, 1.5))
    with pytest.raises(UserError, match=r"expected failed videos 0\.\.2, got 7"):
        segment_map(truth, predicted, 3, failed=[7])
