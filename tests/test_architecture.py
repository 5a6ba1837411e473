"""Settings become configurations; what does not fit together is refused with what would."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from videomae2.architecture import (
    SIZES,
    Architecture,
    DecoderConfig,
    EncoderConfig,
    architecture_of,
    decoder_config,
    encoder_config,
)
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.settings import ModelSettings

from . import tiny

STACK: dict[str, Any] = {"width": 48, "depth": 2, "num_heads": 3, "mlp_width": 192}


def test_the_giant_follows_its_weights() -> None:
    settings = ModelSettings(name="vit_g14")
    encoder, decoder = encoder_config(settings), decoder_config(settings)
    assert (encoder.width, encoder.depth, encoder.num_heads, encoder.mlp_width) == (1408, 40, 16, 6144)
    assert encoder.grid == encoder.native == TokenGrid.square(patch=14)
    assert (decoder.width, decoder.depth, decoder.num_heads, decoder.mlp_width) == (512, 4, 8, 2234)


def test_small_has_the_default_decoder() -> None:
    decoder = decoder_config(ModelSettings(name="vit_s16"))
    assert (decoder.width, decoder.depth, decoder.num_heads, decoder.mlp_width) == (192, 4, 3, 768)


def test_overrides_keep_the_mlp_ratio() -> None:
    encoder, decoder = encoder_config(tiny.settings()), decoder_config(tiny.settings())
    assert (encoder.width, encoder.depth, encoder.mlp_width, encoder.grid.patch) == (48, 2, 192, 8)
    assert (decoder.width, decoder.depth, decoder.mlp_width) == (24, 2, 96)
    assert encoder_config(ModelSettings(name="vit_g14", width=44, num_heads=2)).mlp_width == 192


def test_every_size_divides() -> None:
    for name in SIZES:
        encoder, decoder = encoder_config(ModelSettings(name=name)), decoder_config(ModelSettings(name=name))
        assert encoder.width % encoder.num_heads == decoder.width % decoder.num_heads == 0


def test_an_architecture_has_a_decoder_or_a_head_or_neither() -> None:
    settings = tiny.settings()
    pretraining = architecture_of(settings, decoder=True)
    classifier, bare = architecture_of(settings, num_classes=7), architecture_of(settings)
    assert pretraining.decoder == decoder_config(settings)
    assert pretraining.encoder == classifier.encoder == bare.encoder == encoder_config(settings)
    assert (classifier.decoder, bare.decoder, classifier.num_classes) == (None, None, 7)
    assert len(pretraining.transformers) == 2 and bare.transformers == (bare.encoder,)
    with pytest.raises(
        UserError, match="expected a decoder or a head, got a decoder and a head of 7 classes"
    ):
        architecture_of(settings, decoder=True, num_classes=7)
    with pytest.raises(UserError, match=r"num_classes: expected 0 \(no head\) or more, got -1"):
        Architecture(bare.encoder, num_classes=-1)


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"name": "vit_b14"}, "there is no model 'vit_b14'; did you mean vit_[bg]1"),
    ({"name": "resnet"}, "choose one of .*vit_ti16, vit_s16"),
    (
        {"width": 50},
        r"model\.width: expected a multiple of model\.num_heads = 3, got 50; try 1 or 2 or 5 heads, or "
        "width 51",
    ),
    ({"num_heads": 5}, "expected a multiple of model.num_heads = 5, got 48"),
    ({"decoder_heads": 7}, "model.decoder_width: expected a multiple of model.decoder_heads = 7, got 24"),
    ({"depth": -1}, "model.depth: expected 1 to 1,000, got -1"),
    ({"width": 0}, "model.width: expected 1 to 65,536, got 0"),
    ({"num_heads": 0}, "model.num_heads: expected 1 to 65,536, got 0"),
    ({"decoder_depth": 0}, "model.decoder_depth: expected 1 to 1,000, got 0"),
    ({"drop_path": 1.0}, "model.drop_path: expected a probability from 0 to below 1, got 1.0"),
    ({"size": 30}, "height 30 is not a multiple of patch 8; try height 24 or 32"),
    ({"native_size": 30}, "native grid of the position table .*height 30 is not a multiple of patch 8"),
    ({"depth": 100_000_000}, "model.depth: expected 1 to 1,000, got 100,000,000; leave it out"),
    ({"decoder_depth": 100_000_000}, "model.decoder_depth: expected 1 to 1,000, got 100,000,000"),
    ({"width": 3_000_000_000}, "model.width: expected 1 to 65,536, got 3,000,000,000"),
    ({"num_heads": 2_000_000_000}, "model.num_heads: expected 1 to 65,536"),
    (
        {"num_frames": 2_000_000_000},
        "expected a clip of at most 1,000,000 tokens, got 2000000000x32x32 pixels",
    ),
    ({"native_size": 2_000_000_000}, "expected a clip of at most 1,000,000 tokens"),
]


@pytest.mark.parametrize(("changes", "text"), REFUSALS)
def test_refusals(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        architecture_of(tiny.settings(**changes), decoder=True)
    assert "\n" not in str(caught.value)


def test_means_belong_to_channels() -> None:
    grid = TokenGrid(8, 32, 32, 2, 8, channels=1)
    with pytest.raises(UserError, match="for each of 1 channels, got 3 means and 3 standard deviations"):
        EncoderConfig(grid=grid, native=grid, **STACK)
    EncoderConfig(grid=grid, native=grid, **STACK, mean=(0.5,), std=(0.25,))


def test_a_stack_says_what_it_holds() -> None:
    plain = DecoderConfig(**STACK)
    assert plain.block_matrices == 4 * 48**2 + 2 * 48 * 192
    scaled = replace(plain, layer_scale=0.1, cosine_attention=True)
    assert scaled.block_parameters - plain.block_parameters == 2 * 48 + 3
    with pytest.raises(
        UserError, match=r"model\.positions: expected sinusoid or axes or learned, got 'rope'"
    ):
        replace(plain, positions="rope")


def test_the_description_needs_no_torch() -> None:
    code = "import sys, videomae2.architecture, videomae2.cost.estimate; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
