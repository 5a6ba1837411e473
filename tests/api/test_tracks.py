import torch

from videomae2.api.tracks import Tracker


def boxes(*corners: tuple[float, float]) -> torch.Tensor:
    return torch.tensor([[x, y, x + 10, y + 20] for x, y in corners], dtype=torch.float32).reshape(-1, 4)


def test_actors_keep_their_ids_while_they_move_and_cross_in_the_list() -> None:
    tracker = Tracker(0.5)
    sure = torch.tensor([0.9, 0.9])
    assert tracker.update(0.0, boxes((0, 0), (50, 0)), sure) == [1, 2]
    assert tracker.update(1.0, boxes((46, 0), (4, 0)), sure) == [2, 1]
    # By now each is expected where its motion leads.
    assert tracker.update(2.0, boxes((8, 0), (42, 0)), sure) == [1, 2]
    assert tracker.update(4.0, boxes((16, 0), (34, 0)), sure) == [1, 2]


def test_who_is_not_seen_for_a_while_comes_back_and_then_is_forgotten() -> None:
    tracker = Tracker(0.5, patience=2)
    sure = torch.tensor([0.9])
    assert tracker.update(0.0, boxes((0, 0)), sure) == [1]
    for second in (1.0, 2.0):
        assert tracker.update(second, boxes(), torch.zeros(0)) == []
    assert tracker.update(3.0, boxes((1, 0)), sure) == [1]
    for second in (4.0, 5.0, 6.0):
        tracker.update(second, boxes(), torch.zeros(0))
    assert tracker.update(7.0, boxes((1, 0)), sure) == [2]


def test_an_unsure_box_goes_on_with_a_track_and_begins_none() -> None:
    tracker = Tracker(0.5)
    assert tracker.update(0.0, boxes((0, 0), (80, 0)), torch.tensor([0.9, 0.3])) == [1, 0]
    assert tracker.update(1.0, boxes((80, 0), (1, 0)), torch.tensor([0.3, 0.3])) == [0, 1]


def test_a_sure_box_is_matched_before_an_unsure_one() -> None:
    tracker = Tracker(0.5)
    tracker.update(0.0, boxes((0, 0)), torch.tensor([0.9]))
    assert tracker.update(1.0, boxes((0, 0), (3, 0)), torch.tensor([0.3, 0.9])) == [0, 1]
