"""A placement carries boxes from the source picture to the clip's pixels and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from videomae2.errors import UserError
from videomae2.placement import Box, Placement


def boxes(*rows: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_a_crop_moves_and_scales_boxes() -> None:
    placement = Placement((100, 200), top=20, left=50, height=40, width=80, size=(80, 80))
    moved, survives = placement.to_clip(boxes((50, 20, 130, 60), (60, 30, 70, 40), (0, 0, 49, 19)))
    assert moved[:2].tolist() == [[0, 0, 80, 80], [10, 20, 20, 40]]
    assert survives.tolist() == [True, True, False]


def test_a_mirrored_clip_mirrors_boxes_and_keeps_their_edges_in_order() -> None:
    placement = Placement((10, 20), 0, 0, 10, 20, (10, 20), flipped=True)
    moved, _ = placement.to_clip(boxes((1, 2, 4, 8)))
    assert moved.tolist() == [[16, 2, 19, 8]]
    assert placement.to_source(moved)[0].tolist() == [[1, 2, 4, 8]]


def test_a_box_is_cut_off_at_the_edge_and_survives_while_a_pixel_is_left() -> None:
    placement = Placement((10, 10), 0, 0, 10, 5, (10, 5))
    moved, survives = placement.to_clip(boxes((3, 0, 9, 10), (4.5, 0, 9, 10), (6, 0, 9, 10)))
    assert moved[0].tolist() == [3, 0, 5, 10] and survives.tolist() == [True, False, False]
    assert placement.to_clip(boxes((4.5, 0, 9, 10)), min_size=0.25)[1].tolist() == [True]
    assert placement.to_clip(boxes())[0].shape == (0, 4)


@given(
    source=st.tuples(st.integers(2, 400), st.integers(2, 400)),
    crop=st.tuples(*[st.floats(0.05, 0.95)] * 4),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    flipped=st.booleans(),
)
def test_there_and_back_is_the_same_place(
    source: tuple[int, int], crop: tuple[float, float, float, float], size: tuple[int, int], flipped: bool
) -> None:
    top, left = crop[0] * source[0], crop[1] * source[1]
    height, width = crop[2] * (source[0] - top), crop[3] * (source[1] - left)
    placement = Placement(source, top, left, height, width, size, flipped)
    inside = boxes((left + width / 4, top + height / 3, left + width / 2, top + height))
    back, _ = placement.to_source(placement.to_clip(inside, 0.0)[0], 0.0)
    torch.testing.assert_close(back, inside, rtol=1e-4, atol=1e-3)


def test_a_box_of_a_resized_picture_is_placed_in_its_source() -> None:
    placement = Placement.of(Box(10, 20, 30, 40), seen=(60, 80), source=(120, 320), size=(16, 16))
    assert (placement.top, placement.left, placement.height, placement.width) == (20, 80, 60, 160)


def test_nothing_has_no_placement() -> None:
    with pytest.raises(UserError, match="expected a source, a crop and a clip of at least one pixel"):
        Placement((10, 10), 0, 0, 0, 10, (8, 8))


def test_a_box_of_pixels_is_cut_grown_and_counted_from_another() -> None:
    frames = torch.arange(30).reshape(1, 5, 6)
    box = Box(1, 2, 2, 3)
    assert box.cut(frames).tolist() == [[[8, 9, 10], [14, 15, 16]]]
    assert box.grown(2, frames) == Box(0, 0, 5, 6) and Box.around(frames) == Box(0, 0, 5, 6)
    assert box.within(box.grown(1, frames)) == Box(1, 1, 2, 3)
