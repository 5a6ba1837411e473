"""Settings become configurations; what does not fit together is refused with what would."""

import pytest

from videomae2.architecture import SIZES, EncoderConfig, decoder_config, encoder_config
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.settings import ModelSettings

from . import tiny


def test_the_giant_follows_its_weights():
    settings = ModelSettings(name="vit_g14")
    encoder, decoder = encoder_config(settings), decoder_config(settings)
    assert (encoder.width, encoder.depth, encoder.num_heads, encoder.mlp_width) == (1408, 40, 16, 6144)
    assert encoder.grid == encoder.native == TokenGrid.square(patch=14)
    assert (decoder.width, decoder.depth, decoder.num_heads, decoder.mlp_width) == (512, 4, 8, 2234)


def test_small_has_the_default_decoder():
    decoder = decoder_config(ModelSettings(name="vit_s16"))
    assert (decoder.width, decoder.depth, decoder.num_heads, decoder.mlp_width) == (192, 4, 3, 768)


def test_overrides_keep_the_mlp_ratio():
    encoder, decoder = encoder_config(tiny.settings()), decoder_config(tiny.settings())
    assert (encoder.width, encoder.depth, encoder.mlp_width, encoder.grid.patch) == (48, 2, 192, 8)
    assert (decoder.width, decoder.depth, decoder.mlp_width) == (24, 2, 96)
    assert encoder_config(ModelSettings(name="vit_g14", width=44, num_heads=2)).mlp_width == 192


def test_every_size_divides():
    for name in SIZES:
        encoder, decoder = encoder_config(ModelSettings(name=name)), decoder_config(ModelSettings(name=name))
        assert encoder.width % encoder.num_heads == decoder.width % decoder.num_heads == 0


REFUSALS = [
    ({"name": "vit_b14"}, "there is no model 'vit_b14'; did you mean vit_[bg]1"),
    ({"name": "resnet"}, "choose one of .*vit_ti16, vit_s16"),
    ({"width": 50}, "width 50 does not divide into 3 heads; try 1 or 2 or 5 heads, or width 51"),
    ({"num_heads": 5}, "width 48 does not divide into 5 heads"),
    ({"decoder_heads": 7}, "decoder: width 24 does not divide into 7 heads"),
    ({"depth": -1}, "depth is -1"),
    ({"width": 0}, "width is 0"),
    ({"num_heads": 0}, "heads is 0"),
    ({"decoder_depth": 0}, "decoder: depth is 0"),
    ({"drop_path": 1.0}, "model.drop_path is 1.0"),
    ({"size": 30}, "height 30 is not a multiple of patch 8; try height 24 or 32"),
    ({"native_size": 30}, "native grid of the position table .*height 30 is not a multiple of patch 8"),
]


@pytest.mark.parametrize(("changes", "text"), REFUSALS)
def test_refusals(changes, text):
    with pytest.raises(UserError, match=text):
        settings = tiny.settings(**changes)
        encoder_config(settings)
        decoder_config(settings)


def test_means_belong_to_channels():
    grid = TokenGrid(8, 32, 32, 2, 8, channels=1)
    with pytest.raises(UserError, match="3 means and 3 deviations came for clips of 1 channels"):
        EncoderConfig(grid, grid, 48, 2, 3, 192)
    EncoderConfig(grid, grid, 48, 2, 3, 192, mean=(0.5,), std=(0.25,))
