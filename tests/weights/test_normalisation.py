"""Weights that were trained on pixels of another mean and standard deviation answer as they were trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from videomae2.architecture import IMAGENET_MEAN, IMAGENET_STD
from videomae2.errors import UserError
from videomae2.weights import load_into, read_checkpoint
from videomae2.weights.normalisation import fold_standard, take_standard

from ..small_networks import CLIP, classifier, hub_folder

HALF = [0.5, 0.5, 0.5]


def standardised(frames: Tensor, mean: Any, std: Any) -> Tensor:
    return (frames - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_another_mean_is_folded_into_the_embedding(tmp_path: Path) -> None:
    model = classifier()
    folder = hub_folder(tmp_path / "hub", model)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": HALF, "image_std": [0.25] * 3})
    )
    checkpoint = read_checkpoint(folder)
    assert any("0.5, 0.5, 0.5 and 0.25" in note for note in checkpoint.notes)
    folded = classifier(seed=8)
    load_into(folded, checkpoint, expect="encoder")
    # What their pipeline feeds the network, brought to pixels that ours standardises to the same.
    theirs = standardised(CLIP, HALF, [0.25] * 3)
    as_ours = theirs * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(folded.features(CLIP), model.features(as_ours), rtol=1e-4, atol=1e-4)


def test_the_usual_mean_changes_no_bit() -> None:
    state = dict(classifier().state_dict())
    usual = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
    standard, rest = take_standard(state, usual, "a")
    folded, note = fold_standard(rest, standard)
    assert note == "" and all(folded[name] is state[name] for name in state)
    buffers = {
        "data_preprocessor.mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
        "data_preprocessor.std": torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1),
    }
    standard, rest = take_standard(state | buffers, {}, "a")
    assert rest.keys() == state.keys() and fold_standard(rest, standard)[1] == ""


@pytest.mark.parametrize("mean", [[0.5, 0.5], "half", [0.5, float("nan"), 0.5], [None] * 3, 10**400])
def test_what_is_no_mean_is_one_line(mean: Any) -> None:
    with pytest.raises(UserError, match="expected a mean for each of 3 channels beside a, got") as error:
        take_standard({}, {"image_mean": mean, "image_std": HALF}, "a")
    assert len(str(error.value)) < 400
