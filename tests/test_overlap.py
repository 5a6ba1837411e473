"""Overlap of segments, and suppression against plain re-implementations on random cases."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from videomae2.errors import UserError
from videomae2.overlap import Suppression, hard_nms, segment_iou, soft_nms, vote, with_classes_of_video

Row = tuple[float, float, float, int]
"""Start, end, score, class."""


@st.composite
def detections(draw: Any) -> list[Row]:
    size = draw(st.integers(0, 12))
    ends = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=size, max_size=size))
    # All scores differ: which of two equal ones is the better is nobody's rule.
    scores = draw(st.permutations([n / 100 + 0.005 for n in range(100)]))[:size]
    classes = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    return [(min(e) + 0.0, max(e) + 0.0, s, c) for e, s, c in zip(ends, scores, classes, strict=True)]


def tensors(rows: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
    segments = torch.tensor([row[:2] for row in rows], dtype=torch.float64).reshape(-1, 2)
    scores = torch.tensor([row[2] for row in rows], dtype=torch.float64)
    return segments, scores, torch.tensor([row[3] for row in rows], dtype=torch.int64)


def plain_iou(a: Row, b: Row, extra: float = 1e-6) -> float:
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + extra + b[1] - b[0] + extra - shared)


def plain_hard(rows: list[Row], iou: float) -> list[Row]:
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: -row[2]):
        if all(plain_iou(row, better) < iou for better in kept):
            kept.append(row)
    return kept


def plain_soft(rows: list[Row], sigma: float, min_score: float) -> list[Row]:
    left, kept = list(rows), []
    while left:
        best = max(left, key=lambda row: row[2])
        left.remove(best)
        kept.append(best)
        decayed = [(*r[:2], r[2] * math.exp(-(plain_iou(r, best) ** 2) / sigma), r[3]) for r in left]
        left = [row for row in decayed if row[2] >= min_score]
    return kept


@settings(max_examples=100, deadline=None)
@given(detections(), st.sampled_from([0.1, 0.4, 0.7]))
def test_hard_suppression(rows: list[Row], iou: float) -> None:
    segments, scores, _ = tensors(rows)
    kept, left = hard_nms(segments, scores, iou, most=100)
    assert [rows[k] for k in kept.tolist()] == plain_hard(rows, iou)
    assert torch.equal(left, scores[kept])
    few, _ = hard_nms(segments, scores, iou, most=2)
    assert torch.equal(few, kept[:2])


@settings(max_examples=100, deadline=None)
@given(detections(), st.sampled_from([0.3, 0.75]), st.sampled_from([0.001, 0.3]))
def test_soft_suppression_and_the_choice_by_class(rows: list[Row], sigma: float, min_score: float) -> None:
    segments, scores, labels = tensors(rows)
    kept, left = soft_nms(segments, scores, sigma, min_score, most=100)
    expected = plain_soft(rows, sigma, min_score)
    assert left.tolist() == pytest.approx([row[2] for row in expected], rel=1e-12)
    assert segments[kept].tolist() == [list(row[:2]) for row in expected]

    by_class = [plain_soft([r for r in rows if r[3] == c], sigma, min_score) for c in range(3)]
    best = sorted((row for part in by_class for row in part), key=lambda row: -row[2])[:5]
    found = Suppression(sigma=sigma, min_score=min_score, most=5)(segments, scores, labels)
    assert found[1].tolist() == pytest.approx([row[2] for row in best], rel=1e-12)
    if len({row[2] for row in best}) == len(best):  # decay may make two scores equal
        assert found[0].tolist() == [list(row[:2]) for row in best]
        assert found[2].tolist() == [row[3] for row in best]


@settings(max_examples=100, deadline=None)
@given(detections(), st.sampled_from([0.3, 0.7]))
def test_voting(rows: list[Row], iou: float) -> None:
    segments, scores, labels = tensors(rows)
    moved = vote(segments, segments, scores, iou)
    for row, found in zip(rows, moved.tolist(), strict=True):
        near = [r for r in rows if r[1] > r[0] and row[1] > row[0] and plain_iou(r, row, 0.0) >= iou]
        weights = [r[2] * plain_iou(r, row, 0.0) for r in near]
        for end in (0, 1):
            pairs = zip(weights, near, strict=True)
            mean = sum(w * r[end] for w, r in pairs) / sum(weights) if near else row[end]
            assert found[end] == pytest.approx(mean, rel=1e-12)
    together = Suppression(by_class=False, vote=iou)(segments, scores, labels)
    apart = Suppression(by_class=False, vote=0.0)(segments, scores, labels)
    assert torch.equal(together[0], vote(apart[0], segments, scores, iou))


def test_overlap_of_touching_nested_equal_and_empty_segments() -> None:
    first = torch.tensor([[0.0, 10.0], [5.0, 5.0]])
    second = torch.tensor([[10.0, 20.0], [2.0, 4.0], [0.0, 10.0], [5.0, 5.0]])
    assert segment_iou(first, second).tolist() == [[0.0, pytest.approx(0.2), 1.0, 0.0], [0.0] * 4]
    # Instants overlap nothing, so that suppression keeps even equal ones, as released.
    instants = torch.tensor([[5.0, 5.0], [5.0, 5.0]])
    assert len(hard_nms(instants, torch.tensor([0.9, 0.8]), 0.5, 10)[0]) == 2
    assert len(Suppression()(instants[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64))[0]) == 0


def test_classes_of_the_whole_video() -> None:
    segments, scores = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([0.81, 0.36])
    found = with_classes_of_video(segments, scores, torch.tensor([0.0, 0.25, 0.01, 0.64]))
    assert found[1].tolist() == pytest.approx([0.72, 0.48, 0.45, 0.3])
    assert found[2].tolist() == [3, 3, 1, 1]
    assert found[0].tolist() == [[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [2.0, 3.0]]
    with pytest.raises(UserError, match=r"expected scores from 0 to 1 .* got others; take their softmax"):
        with_classes_of_video(segments, scores, torch.tensor([-1.0, 3.0]))
