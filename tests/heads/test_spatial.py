"""RoIAlign against a loop over samples; the detector on any size, and on no actor at all."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from videomae2.architecture import SIZES
from videomae2.chance import torch_generator
from videomae2.errors import UserError
from videomae2.heads.spatial import (
    SpatialDetector,
    action_loss,
    build_detector,
    class_weights,
    detector_of,
    roi_align,
)
from videomae2.settings import ModelSettings, SpatialHead
from videomae2.weights import Checkpoint

from ..small_networks import CLIP, TINY, stirred


def sample(plane: Tensor, y: float, x: float) -> float:
    """One bilinear sample of a map [H, W] as RoIAlign defines it."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = (1 - across) * plane[top, left] + across * plane[top, right]
    lower = (1 - across) * plane[bottom, left] + across * plane[bottom, right]
    return float((1 - down) * upper + down * lower)


def plain_roi_align(
    maps: Tensor, boxes: Tensor, clip: Tensor, scale: float, *, size: int, samples: int
) -> Tensor:
    result = torch.zeros(len(boxes), maps.shape[1], size, size, dtype=maps.dtype)
    for a, (box, number) in enumerate(zip(boxes.tolist(), clip.tolist(), strict=True)):
        x0, y0, x1, y1 = (corner * scale - 0.5 for corner in box)
        wide, tall = (x1 - x0) / size, (y1 - y0) / size
        counts = [samples or max(1, math.ceil(step)) for step in (tall, wide)]
        for channel, plane in enumerate(maps[number]):
            for row in range(size):
                for column in range(size):
                    values = [
                        sample(
                            plane,
                            y0 + (row + (i + 0.5) / counts[0]) * tall,
                            x0 + (column + (j + 0.5) / counts[1]) * wide,
                        )
                        for i in range(counts[0])
                        for j in range(counts[1])
                    ]
                    result[a, channel, row, column] = sum(values) / len(values)
    return result


def maps_of(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch_generator(seed))


BOXES = {
    "inside": [20.0, 9.0, 77.3, 60.1],
    "partly outside": [-30.0, -9.5, 40.0, 500.0],
    "all of it outside": [300.0, 300.0, 350.0, 320.0],
    "no area": [40.0, 30.0, 40.0, 30.0],
    "no height": [10.0, 30.0, 90.0, 30.0],
    "thinner than a cell": [40.0, 2.0, 43.0, 90.0],
    "the whole frame": [0.0, 0.0, 112.0, 80.0],
}


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align_equals_a_loop_over_samples(name: str, samples: int) -> None:
    maps, boxes = maps_of(3, 2, 2, 5, 7), torch.tensor([BOXES[name]])
    for number in (0, 1):
        clip = torch.tensor([number])
        found = roi_align(maps, boxes, clip, 1 / 16, size=3, samples=samples)
        expected = plain_roi_align(maps, boxes, clip, 1 / 16, size=3, samples=samples)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@given(st.integers(0, 6), st.integers(0, 10**6), st.sampled_from([14, 16]), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_roi_align_of_any_boxes(actors: int, seed: int, patch: int, size: int) -> None:
    maps = maps_of(seed, 3, 1, 4, 6)
    corners = maps_of(seed + 1, actors, 2, 2) * 40 + 40
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    clip = torch.randint(0, 3, (actors,), generator=torch_generator(seed))
    found = roi_align(maps, boxes, clip, 1 / patch, size=size)
    torch.testing.assert_close(
        found, plain_roi_align(maps, boxes, clip, 1 / patch, size=size, samples=0), atol=2e-6, rtol=1e-5
    )


def test_a_linear_map_comes_back_at_the_places_of_the_raster() -> None:
    """The scale is 1 / patch and cells have centres: a map that holds its own x gives the x of each cell."""
    patch = 14
    centres = (torch.arange(8) + 0.5) * patch
    maps = centres.expand(1, 1, 8, 8)
    found = roi_align(maps, torch.tensor([[14.0, 14.0, 98.0, 98.0]]), torch.tensor([0]), 1 / patch, size=2)
    torch.testing.assert_close(found[0, 0], torch.tensor([[35.0, 77.0], [35.0, 77.0]]))


def test_gradients_of_maps_and_boxes() -> None:
    maps = maps_of(1, 2, 2, 4, 5).double().requires_grad_()
    boxes = torch.tensor([[5.3, 7.1, 44.9, 50.3], [-9.7, 3.3, 30.1, 29.3]]).double().requires_grad_()
    clip = torch.tensor([1, 0])
    assert torch.autograd.gradcheck(
        lambda m, b: roi_align(m, b, clip, 1 / 16, size=2, samples=2), (maps, boxes)
    )


def test_half_precision_maps_are_sampled_in_full() -> None:
    maps, boxes, clip = maps_of(2, 1, 1, 5, 5).bfloat16(), torch.tensor([BOXES["inside"]]), torch.tensor([0])
    with torch.autocast("cpu", torch.bfloat16):
        found = roi_align(maps, boxes, clip, 1 / 16)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, roi_align(maps.float(), boxes, clip, 1 / 16))


# ---- the detector


def detector(head: SpatialHead | None = None, model: ModelSettings = TINY, seed: int = 4) -> SpatialDetector:
    return stirred(build_detector(model, 5, head), seed)


def boxes_in(frames: Tensor, count: int, seed: int = 0) -> Tensor:
    sides = torch.tensor([frames.shape[-1], frames.shape[-2]])
    corners = torch.rand(count, 2, 2, generator=torch_generator(seed)) * sides
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


@pytest.mark.parametrize("head", [SpatialHead(), SpatialHead(pooling="attentive", context=True)])
@pytest.mark.parametrize("size", [(32, 32), (45, 32), (24, 61), (3, 9)])
def test_clips_of_any_size_and_shape_give_scores_of_each_box(
    head: SpatialHead, size: tuple[int, int]
) -> None:
    frames = (torch.rand(2, 8, 3, *size, generator=torch_generator(1)) * 255).to(torch.uint8)
    model = detector(head)
    boxes, clip = boxes_in(frames, 3), torch.tensor([0, 1, 1])
    together = model(frames, boxes, clip)
    assert together.shape == (3, 5)
    # One clip, one box at a time: neither depends on what else is in the batch.
    for place, number in enumerate(clip.tolist()):
        alone = model(frames[number][None], boxes[place][None], torch.tensor([0]))
        torch.testing.assert_close(alone[0], together[place], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("actors", [0, 1, 100])
def test_no_actor_and_a_hundred(actors: int) -> None:
    model = detector()
    clip = torch.randint(0, 2, (actors,), generator=torch_generator(2))
    logits = model(CLIP, boxes_in(CLIP, actors), clip)
    assert logits.shape == (actors, 5)
    loss = action_loss(logits, torch.ones_like(logits), clips=2)
    loss.backward()
    assert all(
        parameter.grad is not None and bool(parameter.grad.isfinite().all())
        for parameter in model.parameters()
    )
    assert (float(loss.detach()) == 0) == (actors == 0)


def test_pixels_outside_every_box_tell_through_the_encoder_only() -> None:
    """Features are of the whole frame: what happens beside a box changes its scores."""
    model, boxes, clip = detector(), torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([0])
    changed = CLIP[:1].clone()
    changed[..., 24:, 24:] = 0
    assert not torch.allclose(model(CLIP[:1], boxes, clip), model(changed, boxes, clip), atol=1e-4)


def test_frames_are_continued_at_their_edge_and_positions_follow_the_grid() -> None:
    model = detector()
    frames = CLIP[:1, ..., :27, :30]
    by_hand = torch.nn.functional.pad(frames[0], (0, 2, 0, 5), mode="replicate")[None]
    torch.testing.assert_close(model.feature_maps(frames), model.feature_maps(by_hand))
    assert model.feature_maps(CLIP[:1, ..., :16, :]).shape == (1, 48, 2, 4)
    own, other = model.encoder.positions(), model.encoder.positions(model.grid_of(48, 32))
    assert own.shape == (1, 64, 48) and other.shape == (1, 96, 48)
    assert model.encoder.positions(model.grid_of(32, 32)) is own


def test_attentive_pooling_starts_as_the_mean() -> None:
    mean, attentive = build_detector(TINY, 3), build_detector(TINY, 3, SpatialHead(pooling="attentive"))
    attentive.load_state_dict(mean.state_dict(), strict=False)
    torch.testing.assert_close(mean.feature_maps(CLIP), attentive.feature_maps(CLIP))


def test_the_raster_has_a_cell_a_patch_of_a_g() -> None:
    """The released group script keeps 1/16 for ViT-g, whose patch is 14."""
    assert SIZES["vit_g14"].patch == 14
    small = ModelSettings(
        name="vit_g14", width=48, depth=1, num_heads=3, num_frames=2, size=56, native_frames=2, native_size=56
    )
    model = build_detector(small, 2)
    maps = torch.arange(4.0).expand(1, 48, 4, 4)
    features = model.actor_features(maps, torch.tensor([[28.0, 0, 56, 56]]), torch.tensor([0]))
    assert (
        float(features.max()) == 3.0
    )  # the right half of 56 pixels reaches the last of 4 cells; at 1/16 it would not


def test_no_class_is_refused() -> None:
    with pytest.raises(UserError, match="expected at least 1 action, got 0"):
        build_detector(TINY, 0)


def test_weights_say_what_their_head_is() -> None:
    head = SpatialHead(roi_size=3, pooling="attentive", context=True)
    model = detector(head)
    kept = {"head": {"roi_size": 3, "pooling": "attentive", "context": True, "init_scale": 1.0}}
    checkpoint = Checkpoint(model.state_dict(), "detector", "ours", "x", TINY, 5, metadata=kept)
    again = detector_of(TINY, checkpoint)
    again.load_state_dict(model.state_dict())
    boxes, clip = boxes_in(CLIP, 4), torch.tensor([0, 0, 1, 1])
    assert torch.equal(again.eval()(CLIP, boxes, clip), model(CLIP, boxes, clip))


# ---- losses


def test_the_loss_by_hand() -> None:
    logits, hot = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    plain = (math.log(2) + math.log(1 + math.exp(2.0))) / 2
    assert float(action_loss(logits, hot, 1)) == pytest.approx(plain)
    assert float(action_loss(logits.repeat(3, 1), hot.repeat(3, 1), 2)) == pytest.approx(1.5 * plain)
    sure = 1 / (1 + math.exp(2.0))
    focal = (0.5**2 * math.log(2) + (1 - sure) ** 2 * math.log(1 + math.exp(2.0))) / 2
    assert float(action_loss(logits, hot, 1, focus=2.0)) == pytest.approx(focal)
    weighted = (3 * math.log(2) + math.log(1 + math.exp(2.0))) / 2
    assert float(action_loss(logits, hot, 1, weights=torch.tensor([3.0, 1.0]))) == pytest.approx(weighted)


def test_rare_actions_weigh_more_and_the_mean_is_one() -> None:
    weights = class_weights(torch.tensor([10, 1000, 100_000, 0]))
    assert float(weights.mean()) == pytest.approx(1.0)
    assert weights[3] > weights[0] > weights[1] > weights[2]
