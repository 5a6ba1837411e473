"""Crops and flips: the published positions, one crop for all frames, placements that boxes follow.

The same bits for any number of threads.
"""

from collections import Counter
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from videomae2 import chance
from videomae2.data.augment import crops as t
from videomae2.data.augment.rand_augment import RandAugment
from videomae2.errors import UserError
from videomae2.placement import Box
from videomae2.settings import DataSettings, FinetuneSettings, PretrainSettings


def rng(number: int = 0) -> np.random.Generator:
    return chance.numpy_generator(chance.key(7, "test", number))


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def squares(frames: torch.Tensor, size: int, num_crops: int) -> list[torch.Tensor]:
    return [crop for crop, _ in t.view_crops(frames, size, num_crops)]


def spot(height: int, width: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    """Two black frames with a white rectangle (x0, y0, x1, y1)."""
    frames = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    frames[:, :, box[1] : box[3], box[0] : box[2]] = 255
    return frames


def extent(frames: torch.Tensor) -> torch.Tensor:
    """Where the white rectangle lies: float32 [1, 4]."""
    seen = frames[0, 0] > 127
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return torch.tensor([[float(edge) for edge in found]])


def test_multi_scale_boxes_are_the_published_ones() -> None:
    generator = rng()
    boxes = Counter(t.multi_scale_box(240, 320, 112, generator) for _ in range(6000))
    sides = [240, 210, 180, 158]  # 1, .875, .75, .66 of the short side
    allowed = {(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1}
    assert {(box.height, box.width) for box in boxes} == allowed and len(allowed) == 10
    places = {(box.top, box.left) for box in boxes if (box.height, box.width) == (180, 210)}
    down, across = (240 - 180) // 4, (320 - 210) // 4
    quarters = {
        (0, 0),
        (0, 4),
        (4, 0),
        (4, 4),
        (2, 2),
        (0, 2),
        (2, 0),
        (2, 4),
        (4, 2),
        (1, 1),
        (1, 3),
        (3, 1),
        (3, 3),
    }
    assert places == {(i * down, j * across) for i, j in quarters} and len(places) == 13
    shares = Counter((box.height, box.width) for box in boxes.elements())
    assert all(abs(count / 6000 - 0.1) < 0.02 for count in shares.values())


def test_a_side_within_two_pixels_of_the_size_is_taken_as_the_size() -> None:
    generator = rng()
    heights = {t.multi_scale_box(256, 256, 224, generator).height for _ in range(300)}
    assert heights == {256, 224, 192, 168}
    heights = {t.multi_scale_box(258, 258, 224, generator).height for _ in range(300)}
    assert heights == {258, 224, 193, 170}, "225 is within two pixels of 224"
    small = t.multi_scale_box(223, 300, 224, generator)
    assert small.height <= 223, "a box never leaves the frame"


def test_random_resized_boxes_keep_to_their_ranges() -> None:
    generator = rng()
    areas, shapes = [], []
    for _ in range(2000):
        box = t.random_resized_box(240, 320, (0.08, 1.0), generator)
        assert min(box.top, box.left) >= 0 and box.top + box.height <= 240 and box.left + box.width <= 320
        areas.append(box.height * box.width / (240 * 320))
        shapes.append(box.width / box.height)
    assert 0.075 < min(areas) < 0.12 and max(areas) > 0.85
    assert 0.72 < min(shapes) < 0.8 and 1.27 < max(shapes) < 1.37
    small = [shape for shape, area in zip(shapes, areas, strict=True) if area < 0.5]
    assert abs(np.median(small) - 1) < 0.03, "shapes are uniform in the logarithm"
    wide = t.random_resized_box(10, 400, (1.0, 1.0), generator)
    assert (wide.height, wide.width, wide.left) == (10, 13, 193), (
        "no try fits: the middle, at the widest shape"
    )
    assert t.random_resized_box(1, 1, (0.08, 1.0), generator) == Box(0, 0, 1, 1)


def test_only_the_box_is_resized_and_it_matches_float_arithmetic() -> None:
    frames, box = noise(4, 3, 60, 80), Box(7, 11, 40, 33)
    ours = t.crop_and_resize(frames, box, 24)
    cut = frames[:, :, 7:47, 11:44].float()
    exact = F.interpolate(cut, size=(24, 24), mode="bilinear", antialias=True)
    assert ours.dtype == torch.uint8 and ours.is_contiguous()
    assert (ours.float() - exact).abs().max() <= 1.01
    touched = frames.clone()
    touched[:, :, :7], touched[:, :, 47:], touched[..., :11], touched[..., 44:] = 0, 0, 0, 0
    assert torch.equal(t.crop_and_resize(touched, box, 24), ours)
    assert torch.equal(t.crop_and_resize(frames, Box(5, 6, 24, 24), 24), frames[:, :, 5:29, 6:30]), (
        "no resize, same pixels"
    )


def test_resizing_gives_the_same_bits_for_any_number_of_threads() -> None:
    frames, before = noise(6, 3, 120, 160), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((t.resize(frames, 64, 64), t.resize(frames, 200, 230)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    "data", [FinetuneSettings().data, PretrainSettings().data, DataSettings(crop="center")]
)
def test_every_frame_gets_the_same_transform(data: DataSettings) -> None:
    data = replace(data, erasing=0.0)  # the noise of erasing is fresh in every frame, by design
    transform = t.TrainingTransform(data, 32)
    still = noise(1, 3, 48, 64).repeat(6, 1, 1, 1)
    outputs = [transform(still, rng(draw))[0] for draw in range(12)]
    for out in outputs:
        assert out.shape == (6, 3, 32, 32) and out.dtype == torch.uint8 and out.is_contiguous()
        assert all(torch.equal(frame, out[0]) for frame in out)
    assert torch.equal(outputs[3], transform(still, rng(3))[0]), "the generator decides everything"
    assert len({out.numpy().tobytes() for out in outputs}) > 6


def test_flip_happens_half_the_time_and_only_where_wanted() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).expand(2, 3, 32, 32).contiguous()
    plain = DataSettings(crop="center", rand_augment="", erasing=0.0)
    flipping, still = t.TrainingTransform(plain, 32), t.TrainingTransform(replace(plain, flip=False), 32)
    views = [flipping(ramp, rng(draw)) for draw in range(200)]
    assert 70 < sum(placement.flipped for _, placement in views) < 130
    assert all(bool(frames[0, 0, 0, 0] == 31) == placement.flipped for frames, placement in views)
    assert all(torch.equal(still(ramp, rng(draw))[0], ramp) for draw in range(20))


def test_large_frames_are_brought_down_before_rand_augment() -> None:
    data = DataSettings(crop="center", rand_augment="rand-m5-n2", erasing=0.0, flip=False)
    assert t.TrainingTransform(data, 32)(noise(2, 3, 700, 900), rng())[0].shape == (2, 3, 32, 32)


def test_test_crops_lie_along_the_long_side() -> None:
    wide = noise(2, 3, 48, 64)
    left, middle, right = squares(wide, 24, 3)
    whole = t.resize_short_side(wide, 24)
    assert whole.shape == (2, 3, 24, 32)
    for crop, offset in ((left, 0), (middle, 4), (right, 8)):
        assert torch.equal(crop, whole[..., offset : offset + 24]) and crop.is_contiguous()
    tall = squares(wide.transpose(-1, -2).contiguous(), 24, 3)
    assert (tall[2].transpose(-1, -2).int() - right.int()).abs().max() <= 2, (
        "rows and columns round in another order"
    )
    assert torch.equal(squares(wide, 24, 1)[0], middle)
    assert all(torch.equal(crop, noise(2, 3, 24, 24)) for crop in squares(noise(2, 3, 24, 24), 24, 3))


@pytest.mark.parametrize("policy", ["", "rand-m5-n1-mstd0"])
@pytest.mark.parametrize("crop", ["multi_scale", "random_resized", "center"])
def test_a_box_follows_the_pixels_through_every_crop(
    crop: Literal["multi_scale", "random_resized", "center"], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(t, "STORED_SHORT_SIDE", 150)  # so that RandAugment's pictures are scaled first
    monkeypatch.setattr(RandAugment, "draw", lambda *_: [])
    data = DataSettings(crop=crop, crop_scale=(0.3, 1.0), rand_augment=policy, erasing=0.0)
    transform, inside = t.TrainingTransform(data, 112), 0
    box = (100, 60, 220, 150)
    frames, truth = spot(240, 320, box), torch.tensor([box], dtype=torch.float32)
    for draw in range(20):
        clip, placement = transform(frames, rng(draw))
        assert placement.source == (240, 320) and placement.size == (112, 112)
        moved, survives = placement.to_clip(truth)
        if bool(survives[0]):
            inside += 1
            assert (moved - extent(clip)).abs().max() <= 1.5
    assert inside > 10


def test_a_box_follows_the_pixels_into_every_test_crop() -> None:
    box = (100, 60, 220, 150)
    frames, truth = spot(240, 320, box), torch.tensor([box], dtype=torch.float32)
    for clip, placement in t.view_crops(frames, 112, 3):
        assert (placement.to_clip(truth)[0] - extent(clip)).abs().max() <= 1.5
    scaled = t.resize_short_side(frames, 112)
    for (clip, placement), (same, placed) in zip(
        t.view_crops(frames, 112, 3), t.view_crops(scaled, 112, 3, source=(240, 320)), strict=True
    ):
        assert torch.equal(clip, same) and placement == placed


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected crop_scale .*got \(0.5, 0.1\).*try 0.08 1.0"):
        t.TrainingTransform(DataSettings(crop_scale=(0.5, 0.1)), 32)
    with pytest.raises(UserError, match=r"expected rand_augment .*got 'rand-x'"):
        t.TrainingTransform(DataSettings(rand_augment="rand-x"), 32)
    with pytest.raises(UserError, match=r"expected erasing as a probability .*got 1.5"):
        t.TrainingTransform(DataSettings(erasing=1.5), 32)
