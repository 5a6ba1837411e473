"""Targets of one clip and of many: each kind stacks, checks itself and, with a place, follows a placement."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from videomae2.errors import UserError
from videomae2.labels import Boxes, Classes, MultiClasses, Numbers, Segments, Target, Unlabelled
from videomae2.placement import Placement

UNCHANGED = Placement.whole(8, 8)


def test_each_kind_stacks_in_order() -> None:
    assert Classes.stack([Classes.one(3), Classes.one(-1)]).index.tolist() == [3, -1]
    hot = MultiClasses.stack([MultiClasses.one([0, 2], 3), MultiClasses.one([], 3)]).hot
    assert hot.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert Numbers.stack([Numbers.one(0.5, 1), Numbers.one(2, 3)]).values.tolist() == [[0.5, 1], [2, 3]]
    assert len(Unlabelled.stack([Unlabelled(), Unlabelled(2)])) == 3


def test_boxes_of_several_clips_remember_whose_they_are() -> None:
    first = Boxes.one(torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.0, 1.0, 2.0, 2.0]]), torch.tensor([4, 5]))
    none = Boxes.one(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    last = Boxes.one(torch.tensor([[3.0, 3.0, 4.0, 4.0]]), torch.tensor([6]))
    boxes = Boxes.stack([first, none, last])
    assert len(boxes) == 3 and boxes.counts.tolist() == [2, 0, 1]
    assert boxes.clip.tolist() == [0, 0, 2] and boxes.labels is not None
    assert boxes.labels.tolist() == [4, 5, 6] and boxes.scores is None
    with pytest.raises(UserError, match="expected labels for all clips of a batch or for none"):
        Boxes.stack([first, Boxes.one(torch.zeros(1, 4))])


def test_segments_of_several_clips_remember_whose_they_are() -> None:
    segments = Segments.stack(
        [Segments.one(torch.tensor([[0.5, 1.5]])), Segments.one(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))]
    )
    assert len(segments) == 2 and segments.clip.tolist() == [0, 1, 1]
    assert segments.seconds[2].tolist() == [2.0, 3.0]


def test_only_boxes_follow_a_placement() -> None:
    halved = Placement((16, 16), 0, 0, 16, 16, (8, 8))
    for target in (Classes.one(1), Numbers.one(2.0), Unlabelled(), Segments.one(torch.tensor([[0.0, 1.0]]))):
        assert target.placed(halved) is target
    boxes = Boxes.one(
        torch.tensor([[2.0, 4.0, 10.0, 16.0], [20.0, 0.0, 30.0, 9.0]]),
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([0.9, 0.8]),
    ).placed(halved)
    assert boxes.xyxy.tolist() == [[1, 2, 5, 8]] and boxes.counts.tolist() == [1]
    assert boxes.labels is not None and boxes.labels.tolist() == [[1, 0]]
    assert boxes.scores is not None and len(boxes.scores) == 1
    with pytest.raises(UserError, match="expected the boxes of one clip to place, got those of 2 clips"):
        Boxes.stack([boxes, boxes]).placed(halved)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Classes(torch.tensor([-2])), "expected classes from 0 on, or -1 for unknown, got -2"),
        (lambda: MultiClasses.one([3], 3), "expected classes from 0 to 2, got 3"),
        (lambda: MultiClasses(torch.tensor([[2.0]])), "expected for each class a number from 0 to 1"),
        (lambda: Unlabelled(-1), "expected a count of clips from 0 on, got -1"),
        (lambda: Boxes.one(torch.tensor([[2.0, 0.0, 0.0, 1.0]])), "a box ends before it starts"),
        (lambda: Segments.one(torch.tensor([[1.5, 0.5]])), "a segment ends before it starts"),
        (
            lambda: Boxes(torch.tensor([2, 1]), xyxy=torch.zeros(2, 4)),
            "expected counts that add up to 2 boxes, got 3",
        ),
        (
            lambda: Boxes.one(torch.zeros(2, 4), torch.zeros(1, dtype=torch.int64)),
            r"expected the labels of boxes as int64 \[A=2\], got int64\[1\]",
        ),
    ],
)
def test_impossible_targets_are_refused(make: Callable[[], Target], text: str) -> None:
    with pytest.raises(UserError, match=text):
        make()


def test_a_kind_of_ones_own_needs_no_more_than_its_tensors() -> None:
    @dataclass(frozen=True, repr=False)
    class Reversed(Target):
        flag: torch.Tensor

    stacked = Reversed.stack([Reversed(torch.tensor([True])), Reversed(torch.tensor([False]))])
    assert len(stacked) == 2 and stacked.flag.tolist() == [True, False]
    assert repr(stacked) == "Reversed(flag=bool[2])" and stacked.to("meta").flag.is_meta
    assert stacked.placed(UNCHANGED) is stacked
