"""Mixup, cutmix and label smoothing: targets that sum to one and say what the pixels show.

Random erasing: one box for all frames, released ranges, noise that is standard normal once normalised.
"""

import numpy as np
import pytest
import torch

from videomae2 import chance
from videomae2.data.augment.mixing import RandomErasing, mixup_cutmix, pairs, soft_targets
from videomae2.errors import UserError

LABELS = torch.tensor([0, 1, 2, 4])
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # written out, not imported


def flat_clips(*values: int) -> torch.Tensor:
    """uint8 clips of one value each, so that a mixed pixel tells which clips it came from and how much."""
    return (
        torch.tensor(values, dtype=torch.uint8)[:, None, None, None, None]
        .expand(-1, 2, 3, 16, 20)
        .contiguous()
    )


def test_mixup_mixes_pixels_and_targets_alike() -> None:
    clips = flat_clips(0, 0, 255, 255)
    shares = set()
    for number in range(30):
        frames, targets = mixup_cutmix(clips, LABELS, 5, number, views=2, cutmix=0.0, smoothing=0.0)
        assert frames.dtype == torch.float32 and frames.shape == clips.shape
        assert torch.allclose(targets.sum(1), torch.ones(4))
        share = float(targets[0, 0])
        shares.add(round(share, 4))
        assert torch.allclose(frames[0], torch.full_like(frames[0], 1 - share), atol=1e-6), (
            "clip 0 is black, its partner white"
        )
        assert torch.allclose(targets[0], torch.tensor([share, 0, 0, 0, 1 - share]), atol=1e-6)
        assert torch.allclose(targets[2], torch.tensor([0, 1 - share, share, 0, 0]), atol=1e-6)
    assert len(shares) == 30 and min(shares) < 0.2 and max(shares) > 0.8


def test_cutmix_pastes_one_box_and_corrects_the_share_to_its_area() -> None:
    clips = flat_clips(0, 0, 255, 255)
    shares = []
    for number in range(60):
        frames, targets = mixup_cutmix(clips, LABELS, 5, number, views=2, mixup=0.0, smoothing=0.0)
        pasted = frames[0] == 1
        assert ((frames == 0) | (frames == 1)).all()
        assert torch.equal(pasted, pasted[:1, :1].expand_as(pasted)), (
            "the same box in every frame and channel"
        )
        shares.append(float(targets[0, 0]))
        assert shares[-1] == pytest.approx(1 - float(pasted.float().mean()), abs=1e-6)
        assert torch.allclose(targets.sum(1), torch.ones(4))
    assert min(shares) < 0.4 and max(shares) > 0.9


def test_switch_and_probability() -> None:
    clips = flat_clips(0, 40, 200, 255)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for number in range(300):
        key = chance.key(0, "mix", number)
        frames, _ = mixup_cutmix(clips, LABELS, 5, key, views=2, probability=0.5, switch=0.5)
        if torch.equal(frames, clips / 255):
            kinds["none"] += 1
        else:
            kinds[
                "cutmix" if len(frames[0].unique()) == 2 or frames[0].unique().item() in (0, 1) else "mixup"
            ] += 1
    assert 110 < kinds["none"] < 190 and 45 < kinds["mixup"] < 110 and 45 < kinds["cutmix"] < 110


@pytest.mark.parametrize(("first", "cut"), [(0, 4), (0, 8), (3, 2), (3, 6)])
def test_a_pair_of_videos_is_mixed_alike_in_any_batch_that_has_both(first: int, cut: int) -> None:
    """Five videos of two views, cut between pairs; video 3 is the second of its pair."""
    generator = torch.Generator().manual_seed(first)
    clips = torch.randint(0, 256, (10, 2, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(10) % 5
    whole = mixup_cutmix(clips, labels, 5, 7, views=2, first=first)
    parts = [
        mixup_cutmix(clips[part], labels[part], 5, 7, views=2, first=first + part.start // 2)
        for part in (slice(0, cut), slice(cut, 10))
    ]
    for together, *apart in zip(whole, *parts, strict=True):
        assert torch.equal(together, torch.cat(apart))


def test_pairs_have_lambdas_of_their_own_and_a_video_without_partner_mixes_its_views() -> None:
    clips, labels = flat_clips(0, 10, 20, 255, 0, 200), torch.tensor([0, 0, 1, 1, 2, 2])
    assert pairs(3, 4) == [(1, 1), (2, 2), (3, 1)]
    frames, targets = mixup_cutmix(clips, labels, 3, 5, views=2, cutmix=0.0, smoothing=0.0)
    assert (targets[:4, 2] == 0).all() and torch.equal(targets[4:, 2], torch.ones(2))
    assert 0 < float(frames[4].max()) < 200 / 255, "black mixed with the other view of the same video"
    _, others = mixup_cutmix(clips, labels, 3, 5, views=2, first=2, cutmix=0.0, smoothing=0.0)
    assert float(others[0, 0]) != float(targets[0, 0])


def test_same_key_same_mix_and_the_clip_that_came_is_left_alone() -> None:
    clips = torch.randint(
        0, 256, (4, 2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    before, state = clips.clone(), torch.get_rng_state()
    first, again, other = (mixup_cutmix(clips, LABELS, 5, number) for number in (3, 3, 4))
    assert (
        torch.equal(first[0], again[0])
        and torch.equal(first[1], again[1])
        and not torch.equal(first[0], other[0])
    )
    assert torch.equal(clips, before) and torch.equal(torch.get_rng_state(), state)
    floats = mixup_cutmix(clips / 255, LABELS, 5, 3)
    assert torch.equal(floats[0], first[0]), "uint8 and its float in [0, 1] are the same clip"


def test_label_smoothing_is_the_released_one() -> None:
    targets = soft_targets(LABELS, 5, 0.1)
    assert torch.allclose(targets[3], torch.tensor([0.02, 0.02, 0.02, 0.02, 0.92]))
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert torch.equal(soft_targets(LABELS, 5).argmax(1), LABELS)


def test_labels_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match=r"labels from 0 to 2 for 3 classes, got 0 to 4"):
        soft_targets(LABELS, 3)
    with pytest.raises(UserError, match=r"-1 \(no label\) cannot be trained on"):
        soft_targets(torch.tensor([0, -1]), 3)


def rng(number: int) -> np.random.Generator:
    return chance.numpy_generator(chance.key(1, "test", number))


def changed_box(before: torch.Tensor, after: torch.Tensor) -> tuple[int, int, int, int]:
    changed = (before != after).any(1)
    boxes = set()
    for frame in changed:
        rows, columns = frame.any(1).nonzero(), frame.any(0).nonzero()
        boxes.add((int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1))
    assert len(boxes) == 1, "one box for all frames"
    return boxes.pop()


def test_one_box_of_the_released_size_and_fresh_noise_in_every_frame() -> None:
    still = torch.full((4, 3, 64, 80), 100, dtype=torch.uint8)
    shares = []
    for draw in range(60):
        erased = RandomErasing(1.0)(still, rng(draw))
        top, bottom, left, right = changed_box(still, erased)
        shares.append((bottom - top) * (right - left) / (64 * 80))
        outside = erased.clone()
        outside[:, :, top:bottom, left:right] = 100
        assert torch.equal(outside, still)
        inside = erased[:, :, top:bottom, left:right]
        assert not torch.equal(inside[0], inside[1])
    assert min(shares) > 0.015 and 0.2 < max(shares) < 0.35
    assert torch.equal(still, torch.full_like(still, 100)), "the clip that came must not be written to"


def test_noise_is_normal_in_normalised_space() -> None:
    still = torch.zeros((8, 3, 128, 128), dtype=torch.uint8)
    erased = RandomErasing(1.0, area=(0.33, 0.33), ratio=(1.0, 1.0))(still, rng(0))
    rows, columns = (erased.amax((0, 1)) > 0).any(1).nonzero(), (erased.amax((0, 1)) > 0).any(0).nonzero()
    box = (
        erased[
            :, :, int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1
        ].float()
        / 255
    )
    for channel in range(3):
        normal = (box[:, channel] - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert abs(normal.median()) < 0.02  # the tails are cut at black and white, so median and quartiles
        assert abs(normal.quantile(0.75) - normal.quantile(0.25) - 1.349) < 0.04


def test_a_box_covers_two_to_thirty_three_percent_at_aspects_up_to_ten_to_three() -> None:
    """The released ranges, in pictures so large that rounding is nothing."""
    boxes = [RandomErasing(1.0)._box(3000, 3000, rng(draw)) for draw in range(3000)]
    areas = [box.height * box.width / 3000**2 for box in boxes if box]
    aspects = [box.height / box.width for box in boxes if box]
    assert 0.0195 < min(areas) < 0.022 and 0.330 < max(areas) < 0.3335
    assert 0.299 < min(aspects) < 0.303 and 3.30 < max(aspects) < 3.34


def test_probability_and_determinism() -> None:
    still = torch.full((2, 3, 32, 32), 50, dtype=torch.uint8)
    erase = RandomErasing(0.25)
    outputs = [erase(still, rng(draw)) for draw in range(400)]
    assert 70 < sum(not torch.equal(out, still) for out in outputs) < 130
    assert all(torch.equal(out, erase(still, rng(draw))) for draw, out in enumerate(outputs[:30]))
    assert erase(torch.zeros((2, 3, 1, 1), dtype=torch.uint8), rng(0)).shape == (2, 3, 1, 1)
    with pytest.raises(UserError, match="probability from 0 to 1"):
        RandomErasing(-0.1)
