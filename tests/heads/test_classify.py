"""Classifiers: exact sizes, the released head, features, and dropout only in training."""

from typing import Any

import pytest
import torch

from videomae2 import chance
from videomae2.errors import UserError
from videomae2.heads.classify import build_classifier
from videomae2.settings import ModelSettings

# Paper 5.1: classifier with 710 and with 400 classes.
COUNTS = {
    "vit_s16": (22_153_286, 22_033_936),
    "vit_b16": (86_773_190, 86_534_800),
    "vit_l16": (304_588_486, 304_270_736),
    "vit_h16": (632_516_550, 632_119_440),
    "vit_g14": (1_012_611_142, 1_012_174_352),
}
TINY: dict[str, Any] = {"name": "vit_ti16", "num_frames": 8, "size": 32, "patch": 8, "width": 48, "depth": 2}


def clip(batch: int = 3) -> torch.Tensor:
    return torch.randint(
        0, 256, (batch, 8, 3, 32, 32), dtype=torch.uint8, generator=chance.torch_generator(0)
    )


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_of_the_paper(name: str) -> None:
    for num_classes, expected in zip((710, 400), COUNTS[name], strict=True):
        model = build_classifier(ModelSettings(name=name), num_classes, device="meta")
        assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_shapes_and_the_small_head() -> None:
    model = build_classifier(ModelSettings(**TINY), 7)
    assert model(clip()).shape == (3, 7) and model.features(clip()).shape == (3, 48)
    assert float(model.head.weight.detach().abs().max()) < 1e-4
    wide = build_classifier(ModelSettings(**TINY), 7, head_init_scale=1.0)
    torch.testing.assert_close(wide.head.weight * 0.001, model.head.weight)
    name = "encoder.blocks.1.mlp.fc1.weight"
    assert torch.equal(wide.get_parameter(name), model.get_parameter(name))


def test_logits_read_the_features() -> None:
    model = build_classifier(ModelSettings(**TINY), 7, head_init_scale=1.0).eval()
    torch.testing.assert_close(model(clip()), model.head(model.features(clip())))
    tokens = model.encoder(clip())
    torch.testing.assert_close(model.features(clip()), model.fc_norm(tokens.mean(1)))


def test_one_clip_never_changes_another_clips_logits() -> None:
    model = build_classifier(ModelSettings(**TINY), 7, head_init_scale=1.0).eval()
    torch.testing.assert_close(model(clip())[:1], model(clip()[:1]))


def test_dropout_acts_in_training_only() -> None:
    model = build_classifier(ModelSettings(**TINY, head_dropout=0.5), 7, head_init_scale=1.0)
    assert model.dropout.p == 0.5
    assert not torch.equal(model(clip()), model(clip()))
    assert torch.equal(model.eval()(clip()), model(clip()))


def test_no_classes_are_refused() -> None:
    with pytest.raises(UserError, match="expected num_classes of at least 1, got 0"):
        build_classifier(ModelSettings(**TINY), 0)
