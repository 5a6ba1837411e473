"""Random erasing: one box for all frames, released ranges, noise that is standard normal once normalised."""

import pytest
import torch

from videomae2 import chance
from videomae2.data.augment.erasing import MEAN, STD, RandomErasing
from videomae2.errors import UserError


def rng(number: int):
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
        normal = (box[:, channel] - MEAN[channel]) / STD[channel]
        assert abs(normal.median()) < 0.02  # the tails are cut at black and white, so median and quartiles
        assert abs(normal.quantile(0.75) - normal.quantile(0.25) - 1.349) < 0.04


def test_probability_and_determinism() -> None:
    still = torch.full((2, 3, 32, 32), 50, dtype=torch.uint8)
    erase = RandomErasing(0.25)
    outputs = [erase(still, rng(draw)) for draw in range(400)]
    assert 70 < sum(not torch.equal(out, still) for out in outputs) < 130
    assert all(torch.equal(out, erase(still, rng(draw))) for draw, out in enumerate(outputs[:30]))
    assert erase(torch.zeros((2, 3, 1, 1), dtype=torch.uint8), rng(0)).shape == (2, 3, 1, 1)
    with pytest.raises(UserError, match="probability from 0 to 1"):
        RandomErasing(-0.1)
