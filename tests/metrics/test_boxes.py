"""Frame mAP against the official evaluator's recorded answers and against a plain, slow PASCAL rule."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from videomae2.errors import UserError
from videomae2.metrics.boxes import (
    BoxRows,
    FrameScores,
    Tube,
    average_precision,
    box_recall,
    frame_ap,
    mean_ap,
    tube_iou,
    video_ap,
    video_map,
)
from videomae2.records import Failure


def read(path: Path, frames: dict[tuple[str, str], int], scored: bool) -> BoxRows:
    rows = list(csv.reader(path.open()))
    numbers = [frames.setdefault((row[0], row[1]), len(frames)) for row in rows]
    boxes = [[float(cell) for cell in row[2:6]] for row in rows]
    scores = [float(row[7]) for row in rows] if scored else None
    return BoxRows.listed(numbers, boxes, [int(row[6]) - 1 for row in rows], scores)


def test_the_official_answers_to_nine_digits(shared_data: Path) -> None:
    folder = shared_data / "evaluation" / "ava_mmaction2"
    frames: dict[tuple[str, str], int] = {}
    classes = frame_ap(read(folder / "gt.csv", frames, False), read(folder / "pred.csv", frames, True), 3)
    expected = json.loads((folder / "expected_official.json").read_text())
    for number, each in enumerate(classes):
        name = f"PascalBoxes_PerformanceByCategory/AP@0.5IOU/action{number + 1}"
        assert each.ap == pytest.approx(expected[name], abs=1e-9)
    assert mean_ap(classes) == pytest.approx(expected["PascalBoxes_Precision/mAP@0.5IOU"], abs=1e-9)


# ---- the rule again, one box at a time


def plain_iou(one: list[float], other: list[float]) -> float:
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)) - across * down
    return across * down / union if union > 0 else 0.0


def plain_ap(truth: BoxRows, found: BoxRows, label: int, threshold: float) -> float | None:
    """PASCAL VOC 2010's average precision of one class, by loops over lists."""
    assert found.score is not None
    truths = [
        (int(truth.frame[b]), truth.xyxy[b].tolist())
        for b, c in zip(truth.box, truth.label, strict=True)
        if c == label
    ]
    if not truths:
        return None
    rows = [
        (float(s), place, int(found.frame[b]), found.xyxy[b].tolist())
        for place, (b, c, s) in enumerate(zip(found.box, found.label, found.score, strict=True))
        if c == label and found.xyxy[b][0] < found.xyxy[b][2] and found.xyxy[b][1] < found.xyxy[b][3]
    ]
    rows.sort(key=lambda row: (-row[0], -row[1]))
    taken: set[int] = set()
    hits: list[bool] = []
    for _, _, frame, box in rows:
        best, chosen = -1.0, -1
        for place, (where, true_box) in enumerate(truths):
            if where == frame and plain_iou(box, true_box) > best:
                best, chosen = plain_iou(box, true_box), place
        hit = best >= threshold and chosen not in taken
        if hit:
            taken.add(chosen)
        hits.append(hit)
    points = [(sum(hits[: n + 1]) / len(truths), sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))]
    total, before = 0.0, 0.0
    for place, (recall, _) in enumerate(points):
        total += (recall - before) * max(precision for _, precision in points[place:])
        before = recall
    return total


def random_case(number: int) -> tuple[BoxRows, BoxRows, int]:
    rng = np.random.default_rng(number)
    classes, frames = int(rng.integers(1, 5)), int(rng.integers(1, 6))

    def boxes(count: int) -> np.ndarray:
        corners = rng.integers(0, 7, (count, 2, 2)) / 6.0  # a coarse grid: equal overlaps, boxes of no area
        return np.concatenate([corners.min(1), corners.max(1)], 1)

    truths, found = int(rng.integers(0, 20)), int(rng.integers(0, 60))
    truth = BoxRows.listed(rng.integers(0, frames, truths), boxes(truths), rng.integers(0, classes, truths))
    scores = rng.integers(0, 6, found) / 5.0  # many ties
    return (
        truth,
        BoxRows.listed(
            rng.integers(0, frames + 1, found), boxes(found), rng.integers(0, classes, found), scores
        ),
        classes,
    )


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_two_hundred_random_cases_equal_the_plain_rule(start: int) -> None:
    for number in range(start, start + 20):
        truth, found, classes = random_case(number)
        for threshold in (0.3, 0.5):
            for each in frame_ap(truth, found, classes, threshold):
                expected = plain_ap(truth, found, each.label, threshold)
                assert each.ap == (None if expected is None else pytest.approx(expected, abs=1e-12)), number


def test_of_two_equal_scores_the_later_counts_first() -> None:
    truth = BoxRows.listed([0, 1], [[0, 0, 1, 1]] * 2, [0, 0])
    near, far = [0, 0, 1, 1], [5, 5, 6, 6]
    later_right = BoxRows.listed([0, 0], [far, near], [0, 0], [0.5, 0.5])
    later_wrong = BoxRows.listed([0, 0], [near, far], [0, 0], [0.5, 0.5])
    assert frame_ap(truth, later_right, 1)[0].ap == 0.5
    assert frame_ap(truth, later_wrong, 1)[0].ap == 0.25


def test_classes_without_truths_or_detections() -> None:
    truth = BoxRows.listed([0], [[0, 0, 1, 1]], [1])
    found = BoxRows.listed([0], [[0, 0, 1, 1]], [0], [0.9])
    classes = frame_ap(truth, found, 3)
    assert [each.ap for each in classes] == [None, 0.0, None]
    assert [(each.truths, each.detections) for each in classes] == [(0, 1), (1, 0), (0, 0)]
    assert mean_ap(classes) == 0.0 and mean_ap(classes[:1]) == 0.0


def test_a_second_box_on_the_same_actor_is_wrong() -> None:
    truth = BoxRows.listed([0], [[0, 0, 1, 1]], [0])
    found = BoxRows.listed([0, 0, 0], [[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 0, 1]], [0] * 3, [0.8, 0.9, 1.0])
    (only,) = frame_ap(truth, found, 1)
    assert only.ap == 1.0 and only.detections == 2  # the box of no area is dropped, the second one ranks last


def test_average_precision_by_hand() -> None:
    assert average_precision(np.array([True, False, True]), 2) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision(np.zeros(0, dtype=bool), 2) == 0.0


def test_recall_of_boxes_does_not_look_at_classes() -> None:
    truth = BoxRows.listed([0, 0, 3], [[0, 0, 1, 1], [4, 4, 5, 5], [0, 0, 1, 1]], [0, 0, 1])
    found = BoxRows.listed([0, 0, 2], [[0, 0, 1, 0.6], [4, 4, 5, 4.4], [0, 0, 1, 1]], [7, 7, 7], [0.1] * 3)
    assert box_recall(truth, found) == pytest.approx(1 / 3)
    assert box_recall(BoxRows.listed([], [], []), found) == 0.0


def test_key_frames_that_failed_count_as_missed_and_processes_merge() -> None:
    truth = BoxRows.listed([0, 1, 2], [[0, 0, 1, 1]] * 3, [0, 1, 0])
    box, sure = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.9, 0.1]])
    parts = [FrameScores(truth, 2, 3) for _ in range(3)]
    parts[0].update(0, box, sure)
    parts[1].update(1, box, sure.flip(1))
    parts[1].update(0, box, sure)  # a row that two processes scored counts once
    parts[2].fail([Failure(2, "c.mp4", "broken")])
    for other in parts[1:]:
        parts[0].merge(other.state_dict())
    report = parts[0].report()
    assert (report.evaluated, report.failed, report.listed) == (2, 1, 3)
    assert [each.ap for each in report.classes] == [0.5, 1.0]
    assert report.mean == 0.75 and report.recall == pytest.approx(2 / 3)
    assert "2 evaluated, 1 failed, 3 listed" in str(report)


def test_scores_that_are_not_numbers_rank_last() -> None:
    truth = BoxRows.listed([0, 1], [[0, 0, 1, 1]] * 2, [0, 0])
    scores = FrameScores(truth, 1, 2)
    scores.update(0, torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[math.nan]]))
    scores.update(1, torch.tensor([[0.0, 0, 1, 1], [5.0, 5, 6, 6]]), torch.tensor([[0.9], [0.8]]))
    assert scores.report().classes[0].ap == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_another_number_of_classes_is_refused() -> None:
    scores = FrameScores(BoxRows.listed([], [], []), 2, 1)
    with pytest.raises(UserError, match="expected 2 scores for each box, got 3"):
        scores.update(0, torch.zeros(1, 4), torch.zeros(1, 3))


# ---- tubes


def still(video: str, label: int, frames: range, box: list[float], score: float = 1.0) -> Tube:
    return Tube(video, label, np.array(frames), np.tile(np.array(box, np.float64), (len(frames), 1)), score)


def test_overlap_of_tubes_is_that_in_time_times_that_in_space() -> None:
    truth, found = still("a", 0, range(10), [0, 0, 2, 2]), still("a", 0, range(5, 15), [1, 0, 3, 2])
    assert tube_iou(truth, found) == pytest.approx(5 / 15 * 1 / 3)
    assert tube_iou(truth, still("b", 0, range(10), [0, 0, 2, 2])) == 0.0
    assert tube_iou(truth, still("a", 0, range(10, 20), [0, 0, 2, 2])) == 0.0


def test_a_tube_takes_the_best_that_is_left() -> None:
    truth = [still("a", 0, range(10), [0, 0, 2, 2]), still("a", 0, range(10), [0, 0, 2, 1.4])]
    found = [still("a", 0, range(10), [0, 0, 2, 2], s) for s in (0.9, 0.8)]
    (only,) = video_ap(truth, found, 1, 0.5)
    assert only.ap == 1.0
    assert video_ap(truth, found, 1, 0.75)[0].ap == 0.5


def test_video_map_at_its_thresholds() -> None:
    truth = [still("a", 0, range(10), [0, 0, 10, 10]), still("b", 1, range(10), [0, 0, 10, 10])]
    found = [still("a", 0, range(10), [0, 0, 10, 7.7], 0.3), still("b", 1, range(3), [0, 0, 10, 10], 0.9)]
    values = video_map(truth, found, 3)
    # 0.77 of the first, 0.3 of the second: six of ten thresholds from 0.5 to 0.75 for one of two classes
    assert values == {"0.2": 1.0, "0.5": 0.5, "0.5:0.95": pytest.approx(0.3)}
    assert video_map(truth, [], 3) == {"0.2": 0.0, "0.5": 0.0, "0.5:0.95": 0.0}
