"""Accuracy over views: merged by row, nothing dropped from the denominator."""

import pytest
import torch

from videomae2.errors import UserError
from videomae2.metrics.accuracy import ViewScores, ranking, top_hits
from videomae2.records import Failure


def _logits(*winners: int, num_classes: int = 3) -> torch.Tensor:
    return 5 * torch.nn.functional.one_hot(torch.tensor(winners), num_classes).float()


def _ints(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_softmax_is_averaged_over_views_not_logits() -> None:
    scores = ViewScores(_ints(0), 2)
    logits = torch.tensor(
        [[0.0, 9.0], [2.0, 0.0], [2.0, 0.0]]
    )  # the mean logit says class 1, the mean share class 0
    scores.update(logits, _ints(0, 0, 0), _ints(0, 1, 2))
    rows, means = scores.scored()
    assert rows.tolist() == [0]
    torch.testing.assert_close(means[0], logits.double().softmax(1).mean(0))
    assert logits.mean(0).argmax() == 1
    assert scores.accuracy().top1 == 1.0


def test_rows_are_not_merged_by_anything_but_their_number() -> None:
    scores = ViewScores(_ints(0, 1), 3)  # a/1.mp4 and b/1.mp4: one right, one wrong
    scores.update(_logits(0, 0), _ints(0, 1), _ints(0, 0))
    assert scores.accuracy().top1 == 0.5


def test_a_failed_row_counts_as_wrong() -> None:
    scores = ViewScores(_ints(0, 1, 2), 3)
    scores.update(_logits(0, 1), _ints(0, 1), _ints(0, 0))
    scores.fail([Failure(2, "broken.mp4", "no video stream")])
    accuracy = scores.accuracy()
    assert (accuracy.evaluated, accuracy.failed, accuracy.listed) == (2, 1, 3)
    assert accuracy.top1 == pytest.approx(2 / 3)
    assert "2 evaluated, 1 failed, 3 listed" in str(accuracy)
    assert scores.per_class()[2].failed == 1


def test_a_row_that_failed_counts_as_wrong_even_if_a_view_of_it_was_scored() -> None:
    scores = ViewScores(_ints(0, 1), 3)
    scores.update(_logits(0, 1), _ints(0, 1), _ints(0, 0))
    scores.fail([Failure(1, "half.mp4", "the second clip could not be decoded")])
    assert scores.scored()[0].tolist() == [0]
    assert (scores.accuracy().top1, scores.accuracy().failed) == (0.5, 1)


def test_a_row_never_scored_counts_as_wrong_too() -> None:
    scores = ViewScores(_ints(0, 1), 3)
    scores.update(_logits(0), _ints(0), _ints(0))
    assert scores.accuracy().top1 == 0.5


def test_scores_that_are_not_finite_count_as_wrong() -> None:
    scores = ViewScores(_ints(0, 1), 3)
    scores.update(torch.tensor([[float("nan")] * 3, [0.0, 9.0, 0.0]]), _ints(0, 1), _ints(0, 0))
    assert scores.accuracy().top1 == 0.5
    assert scores.accuracy().failed == 1


def test_top5_is_not_available_below_five_classes() -> None:
    few, many = ViewScores(_ints(0), 3), ViewScores(_ints(4), 6)
    few.update(_logits(0), _ints(0), _ints(0))
    many.update(torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]), _ints(0), _ints(0))
    assert few.accuracy().top5 is None
    assert "top-5 n/a" in str(few.accuracy())
    assert (many.accuracy().top1, many.accuracy().top5) == (0.0, 1.0)


def test_merging_processes_equals_one_process() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (40,), generator=generator)
    logits = torch.randn(80, 6, generator=generator)
    row, view = torch.arange(80) // 2, torch.arange(80) % 2
    whole = ViewScores(labels, 6)
    whole.update(logits, row, view)
    parts = []
    for rank in range(3):
        part = ViewScores(labels, 6)
        mine = (row % 3 == rank) | (row == 0)  # row 0 pads every rank, as distributed samplers do
        part.update(logits[mine], row[mine], view[mine])
        parts.append(part)
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    assert merged.accuracy() == whole.accuracy()
    assert torch.equal(merged.confusion(), whole.confusion())
    assert merged.accuracy().evaluated == 40


def test_views_of_one_row_may_come_from_two_processes() -> None:
    labels = _ints(0)
    first, second, whole = (ViewScores(labels, 3) for _ in range(3))
    logits = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    first.update(logits[:1], _ints(0), _ints(0))
    second.update(logits[1:], _ints(0), _ints(1))
    whole.update(logits, _ints(0, 0), _ints(0, 1))
    first.merge(second)
    torch.testing.assert_close(first.scored()[1], whole.scored()[1])


def test_partly_overlapping_views_are_refused() -> None:
    first, second = ViewScores(_ints(0), 3), ViewScores(_ints(0), 3)
    first.update(_logits(0, 0), _ints(0, 0), _ints(0, 1))
    second.update(_logits(0, 0), _ints(0, 0), _ints(1, 2))
    with pytest.raises(UserError, match=r"expected each view once, got views \[1\] of row 0"):
        first.merge(second)


def test_scores_of_another_manifest_are_refused() -> None:
    with pytest.raises(UserError, match="expected scores of the same manifest"):
        ViewScores(_ints(0), 3).merge(ViewScores(_ints(1), 3))


def test_confusion_and_per_class_agree_with_a_count_by_hand() -> None:
    scores = ViewScores(_ints(0, 0, 1, 2), 3)
    scores.update(_logits(0, 1, 1, 0), _ints(0, 1, 2, 3), _ints(0, 0, 0, 0))
    assert scores.confusion().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert [c.right for c in scores.per_class()] == [1, 1, 0]
    assert scores.accuracy().mean_class == pytest.approx((0.5 + 1 + 0) / 3)


def test_equal_scores_do_not_make_every_class_right() -> None:
    tied = torch.zeros(4, 4)
    assert ranking(tied)[0].tolist() == [0, 1, 2, 3]
    assert top_hits(tied, torch.arange(4), 1).tolist() == [True, False, False, False]


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_refused(label: int) -> None:
    with pytest.raises(UserError, match=f"expected labels 0..2 for 3 classes, got {label} in row 1"):
        ViewScores(_ints(0, label), 3)


def test_another_number_of_scores_is_refused() -> None:
    with pytest.raises(UserError, match="expected 3 scores for each clip, got 4"):
        ViewScores(_ints(0), 3).update(torch.zeros(1, 4), _ints(0), _ints(0))


def test_a_large_evaluation_is_judged_as_a_small_one() -> None:
    """More rows than are compared at once, against a ranking of all classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 30, (9000,), generator=generator)
    scores = ViewScores(labels, 30)
    logits = torch.randn(9000, 30, generator=generator).round(decimals=1)  # with ties
    scores.update(logits, torch.arange(9000), torch.zeros(9000, dtype=torch.int64))
    hits = (ranking(scores.sums)[:, :5] == labels[:, None]).any(1)
    top5 = scores.accuracy().top5
    assert top5 is not None and round(top5 * 9000) == int(hits.sum())
    assert torch.equal(scores.predicted()[1], ranking(scores.sums)[:, 0])
