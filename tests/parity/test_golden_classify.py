"""Classification as released: features after pooling and fc_norm, and logits."""

from pathlib import Path

import pytest

from . import released


@pytest.mark.parametrize("name", released.CLASSIFY)
def test_classifier_equals_the_released_code(golden: Path, name: str) -> None:
    config, tensors, weights = released.read(golden / f"{name}.safetensors")
    model, frames = released.classifier(config, weights).eval(), released.frames(tensors)
    assert released.error(model.features(frames), tensors["features"]) < 1e-5
    assert released.error(model(frames), tensors["logits"]) < 1e-5
