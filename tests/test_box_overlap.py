import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from videomae2.box_overlap import area, grown, iou, nms
from videomae2.chance import torch_generator
from videomae2.errors import UserError


def boxes_of(count: int, seed: int = 0) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch_generator(seed)) * 20
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


def plain_iou(one: list[float], other: list[float]) -> float:
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    first, second = ((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    union = first + second - across * down
    return across * down / union if union else 0.0


def plain_nms(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    kept: list[int] = []
    for one in sorted(range(len(boxes)), key=lambda place: -scores[place]):
        if all(plain_iou(boxes[one], boxes[other]) <= threshold for other in kept):
            kept.append(one)
    return kept


def test_overlap_by_hand_and_of_nothing() -> None:
    left = torch.tensor([[0.0, 0, 2, 2], [1.0, 1, 1, 1]])
    right = torch.tensor([[1.0, 0, 3, 2], [1.0, 1, 1, 1], [5.0, 5, 6, 6]])
    torch.testing.assert_close(iou(left, right), torch.tensor([[1 / 3, 0, 0], [0, 0, 0]]))
    assert area(torch.tensor([[3.0, 0, 1, 5]])).item() == 0


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_overlap_equals_the_plain_rule_is_symmetric_and_at_most_one(n: int, m: int, seed: int) -> None:
    left, right = boxes_of(n, seed), boxes_of(m, seed + 1)
    found = iou(left, right)
    expected = [[plain_iou(one, other) for other in right.tolist()] for one in left.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected).reshape(n, m), atol=1e-6, rtol=0)
    assert torch.equal(found, iou(right, left).T) and bool((found <= 1).all())
    torch.testing.assert_close(iou(left, left).diagonal(), torch.ones(n))


@given(st.integers(0, 30), st.floats(0, 1), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_suppression_equals_the_plain_rule(count: int, threshold: float, seed: int) -> None:
    boxes = boxes_of(count, seed).double()
    scores = torch.randint(0, 5, (count,), generator=torch_generator(seed)).double()  # many ties
    assert nms(boxes, scores, threshold).tolist() == plain_nms(boxes.tolist(), scores.tolist(), threshold)


def test_boxes_of_other_groups_stay() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2]]).repeat(3, 1)
    scores, groups = torch.tensor([0.1, 0.9, 0.5]), torch.tensor([0, 1, 0])
    assert nms(boxes, scores, 0.5).tolist() == [1]
    assert nms(boxes, scores, 0.5, groups).tolist() == [1, 2]


def test_a_removed_box_removes_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 1], [2.0, 0, 6, 1], [4.0, 0, 8, 1]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]


def test_a_threshold_outside_is_refused() -> None:
    with pytest.raises(UserError, match="expected an overlap from 0 to 1 to suppress boxes by, got 50"):
        nms(boxes_of(2), torch.zeros(2), 50)


def test_boxes_grow_by_shares_of_their_sides_up_to_the_edge() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 60], [0.0, 0, 40, 10]])
    grown_boxes = grown(boxes, 0.1, 0.05, (62, 42))
    assert grown_boxes.tolist() == [[8, 18, 32, 62], [0, 0, 42, 10.5]]
