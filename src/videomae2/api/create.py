"""A fresh network by name, with any setting changed."""

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from torch import nn

from videomae2 import chance
from videomae2.errors import UserError
from videomae2.heads.classify import build_classifier
from videomae2.models.build import build_autoencoder
from videomae2.settings import ModelSettings


def create_model(
    name: str = "vit_b16", num_classes: int | None = None, *, seed: int = 0, **changes: Any
) -> nn.Module:
    """An untrained `Classifier` of `num_classes` classes, or without them an `Autoencoder` for pre-training.

    `changes` are settings of the model, such as num_frames=8, size=112 or drop_path=0.1 (`ModelSettings`
    lists them). Weights follow from `seed`. A classifier takes frames [B, T, C, H, W], uint8 or float in [0,
    1], and gives [B, K].
    """
    settings = with_changes(ModelSettings(), {"name": name, **changes})
    generator = chance.torch_generator(chance.key(seed, "initial weights"))
    if num_classes is None:
        return build_autoencoder(settings, generator)
    return build_classifier(settings, num_classes, generator=generator)


def with_changes(settings: ModelSettings, changes: Mapping[str, Any]) -> ModelSettings:
    """Settings of a model with some replaced; UserError, with the nearest name, for what is no setting."""
    known = [field.name for field in fields(ModelSettings)]
    for change in changes:
        if change not in known:
            near = get_close_matches(change, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
            raise UserError(f"{change!r} is no setting of a model; {hint}")
    return replace(settings, **changes)
