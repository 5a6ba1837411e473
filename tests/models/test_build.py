"""Exact sizes of the paper, on the meta device, and initial values from an explicit generator."""

from typing import Any

import pytest
import torch

from videomae2 import chance
from videomae2.errors import UserError
from videomae2.models.build import build_autoencoder, build_encoder
from videomae2.positions import sinusoid
from videomae2.settings import ModelSettings

from .. import tiny

# Paper 5.1 and 5.2: encoder with its final norm, whole pre-training model, decoder with projection and mask
# token.
COUNTS = {
    "vit_s16": (21_879_936, 24_029_376, 2_149_440),
    "vit_b16": (86_227_200, 94_210_944, 7_983_744),
    "vit_l16": (303_860_736, 317_782_016, 13_921_280),
    "vit_h16": (631_607_040, 645_659_392, 14_052_352),
    "vit_g14": (1_011_610_752, 1_026_306_560, 14_695_808),
}


def count(module: Any) -> Any:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_of_the_paper(name: Any) -> None:
    model = build_autoencoder(ModelSettings(name=name), device="meta")
    assert (count(model.encoder), count(model), count(model) - count(model.encoder)) == COUNTS[name]
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_a_network_beyond_the_memory_is_refused_before_it_is_made() -> None:
    settings = ModelSettings(width=65536, depth=100, num_heads=64)
    with pytest.raises(
        UserError, match=r"expected a network that fits \d+ GiB of memory, got one of 19,\d+ GiB"
    ):
        build_encoder(settings)
    assert count(build_encoder(settings, device="meta")) > 10**12


def test_initial_values_are_a_function_of_the_generator() -> None:
    before = torch.get_rng_state()
    first, second, other = tiny.network(3), tiny.network(3), tiny.network(4)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    qkv = "encoder.blocks.0.attn.qkv.weight"
    assert not torch.equal(other.get_parameter(qkv), first.get_parameter(qkv))
    default = build_autoencoder(tiny.settings()).state_dict()
    assert torch.equal(default["mask_token"], tiny.network(0).state_dict()["mask_token"])


def test_pretraining_values_are_the_released_ones() -> None:
    model = tiny.network(layer_scale=0.2, cosine_attention=True)
    for name, value in model.state_dict().items():
        if value.ndim == 2:
            bound = (6 / sum(value.shape)) ** 0.5
            assert float(value.abs().max()) <= bound and float(value.std()) == pytest.approx(
                bound / 3**0.5, rel=0.1
            ), name
        elif "norm" in name and name.endswith("weight"):
            assert torch.equal(value, torch.ones_like(value)), name
        elif name.endswith("bias") and "patch_embed" not in name:
            assert torch.equal(value, torch.zeros_like(value)), name
        elif "gamma" in name:
            assert torch.equal(value, torch.full_like(value, 0.2)), name
        elif name.endswith("scale"):
            assert torch.equal(value, torch.full_like(value, 10.0).log()), name
    assert 0 < float(model.mask_token.detach().abs().max()) <= 0.02
    bound = 384**-0.5  # torch's own initial values, which the released code leaves
    for value in model.encoder.patch_embed.state_dict().values():
        assert 0.8 * bound < float(value.abs().max()) <= bound


def test_finetuning_values_are_narrow() -> None:
    encoder = build_encoder(tiny.settings(), generator=chance.torch_generator(0))
    for name, value in encoder.state_dict().items():
        if value.ndim == 2:
            assert float(value.std()) == pytest.approx(0.02, rel=0.1), name


def test_buffers_survive_being_built_without_memory() -> None:
    model = tiny.network()
    assert torch.equal(model.encoder.pos_embed[0], sinusoid(64, 48))
    assert torch.equal(model.decoder.pos_embed[0], sinusoid(64, 24))
    assert model.encoder.patch_embed.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert model.encoder.patch_embed.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
