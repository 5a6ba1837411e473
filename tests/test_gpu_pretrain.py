"""The GPU benchmark's own arithmetic and step, on a CPU with a tiny network, are consistent."""

import pytest
import torch
from gpu_pretrain import MASKS, Setting, _clips, _settings, measure

from videomae2.architecture import architecture_of
from videomae2.cost.macs import training_macs
from videomae2.geometry import TokenGrid
from videomae2.labels import Unlabelled
from videomae2.mask_counts import count_tokens
from videomae2.settings import ModelSettings

SMALL = ModelSettings(
    name="vit_ti16", num_frames=8, size=32, patch=8, depth=2, decoder_depth=2, native_frames=8, native_size=32
)


@pytest.mark.parametrize("mask", MASKS)
def test_rates_follow_from_the_products_and_the_seconds(mask: str) -> None:
    setting = Setting("vit_ti16", mask, compiled=False, batch=2, device="cpu")
    found = measure(setting, SMALL)
    network = architecture_of(SMALL, decoder=True)
    macs = training_macs(network, count_tokens(network.grid, MASKS[mask]))
    assert found["model_flops_per_second"] * found["seconds"] == pytest.approx(2 * 2 * macs)
    assert found["clips_per_second"] * found["seconds"] == pytest.approx(2)
    assert found["seconds_low"] <= found["seconds"] <= found["seconds_high"]


def test_every_mask_runs_with_and_without_checkpointing() -> None:
    settings = list(_settings("vit_b16"))
    assert {(each.mask, each.checkpointing) for each in settings if each.compiled} == {
        (m, c) for m in MASKS for c in (False, True)
    }
    assert [each for each in settings if not each.compiled]


def test_clips_are_uint8_and_unlabelled() -> None:
    clips = _clips(TokenGrid.square(8, 32, patch=8), 3, torch.device("cpu"))
    assert clips.frames.dtype == torch.uint8
    assert clips.target == Unlabelled(3)
