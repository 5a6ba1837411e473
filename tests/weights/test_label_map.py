"""Heads sliced by a label map, and maps that are wrong."""

import json

import pytest
import torch

from videomae2.errors import UserError
from videomae2.weights.describe import (
    load_into,
    read_checkpoint,
    save_safetensors,
    slice_head,
)

from ..small_networks import CLIP, TINY, autoencoder, classifier


@pytest.mark.parametrize("form", ["list", "numbers", "names"])
def test_a_label_map_slices_the_head(tmp_path, form):
    model, chosen = classifier(7), [5, 0, 3]
    source = save_safetensors(
        tmp_path / "a.safetensors", model, TINY, "classifier", class_names=list("abcdefg")
    )
    content = {"list": chosen, "numbers": {"2": 3, "0": 5, "1": 0}, "names": {"f": 5, "a": 0, "d": 3}}[form]
    (tmp_path / "map.json").write_text(json.dumps(content))
    small = classifier(3, seed=8)
    report = load_into(small, read_checkpoint(source), label_map=tmp_path / "map.json")
    assert report.complete and "head.weight [7, 48] -> [3, 48] by the label map" in report.resized
    assert torch.allclose(small(CLIP), model(CLIP)[:, chosen], atol=1e-6)
    checkpoint = read_checkpoint(source, label_map=str(tmp_path / "map.json"))
    assert (checkpoint.num_classes, checkpoint.class_names) == (3, ("f", "a", "d"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([0, 7], "sends class 1 to 7, but the checkpoint's head has classes 0 to 6"),
        ([0, "x"], "sends class 1 to 'x'"),
        ([], "is empty"),
        ({"0": 1, "2": 2}, "does not number its new classes 0 to 1"),
        (3, "holds a int"),
    ],
)
def test_a_wrong_label_map_is_refused(tmp_path, content, words):
    (tmp_path / "map.json").write_text(json.dumps(content))
    source = save_safetensors(tmp_path / "a.safetensors", classifier(7), TINY, "classifier")
    with pytest.raises(UserError, match=words):
        read_checkpoint(source, label_map=tmp_path / "map.json")
    with pytest.raises(UserError, match="there is no label map file"):
        read_checkpoint(source, label_map=tmp_path / "absent.json")
    with pytest.raises(UserError, match="has no classification head to slice"):
        slice_head(
            read_checkpoint(save_safetensors(tmp_path / "b.safetensors", autoencoder(), TINY, "pretrain")),
            [0],
        )
