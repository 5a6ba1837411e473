"""What a file turns out to be: sizes told by shapes, refusals, and heads sliced by a label map."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from videomae2.errors import UserError
from videomae2.models.build import build_autoencoder
from videomae2.settings import ModelSettings
from videomae2.weights import load_into, read_checkpoint, save_safetensors, slice_head
from videomae2.weights.pickles import RawWeights
from videomae2.weights.recognise import check_encoder, in_words, recognise
from videomae2.weights.write import write_transformers

from ..small_networks import CLIP, TINY, autoencoder, classifier, same


@pytest.mark.parametrize("name", ["vit_s16", "vit_b16", "vit_g14"])
def test_the_released_sizes_are_recognised_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        state = build_autoencoder(ModelSettings(name=name), device="meta").state_dict()
    check_encoder(state)
    assert recognise(state, RawWeights({}, Path("a.pth")), "pretrain") == (ModelSettings(name=name), "")
    assert in_words(state).startswith(f"{name} (width") and "no head" in in_words(state)


def test_heads_are_known_from_the_scales_of_cosine_attention(tmp_path: Path, golden: Path) -> None:
    tensors = load_file(golden / "pretrain_dual_cosattn_layerscale.safetensors")
    weights = {
        name.removeprefix("weights."): tensor
        for name, tensor in tensors.items()
        if name.startswith("weights.")
    }
    torch.save(
        {"model": weights, "args": argparse.Namespace(num_frames=8, input_size=32)}, tmp_path / "a.pth"
    )
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert checkpoint.settings == replace(TINY, cosine_attention=True, layer_scale=0.1)
    assert load_into(build_autoencoder(checkpoint.settings), checkpoint).complete


def test_a_newer_format_or_setting_is_refused(tmp_path: Path) -> None:
    file, state = tmp_path / "a.safetensors", autoencoder().state_dict()
    for note, words in (
        ({"format": 99}, "written by a newer version"),
        ({"settings": {"flux": 1}}, "does not know .flux."),
    ):
        save_file(state, file, {"videomae2": json.dumps({"format": 1, "kind": "pretrain"} | note)})
        with pytest.raises(UserError, match=words):
            read_checkpoint(file)


def test_what_is_no_videomae_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"conv1.weight": torch.ones(3), "fc.bias": torch.ones(2)}}, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match=r"not a VideoMAE's weights.*conv1.weight, fc.bias"):
        read_checkpoint(tmp_path / "resnet.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        read_checkpoint(tmp_path / "none.pth")
    torch.save(
        {"patch_embed.proj.weight": torch.ones(4, 3, 8, 8), "blocks.0.mlp.fc1.weight": torch.ones(4, 4)},
        tmp_path / "i.pth",
    )
    with pytest.raises(UserError, match="is this an image model"):
        read_checkpoint(tmp_path / "i.pth")
    with pytest.raises(UserError, match=r"holds none of model.safetensors"):
        read_checkpoint(tmp_path)


def test_sharded_folders_are_read_and_may_not_point_elsewhere(tmp_path: Path) -> None:
    model = autoencoder()
    write_transformers(tmp_path / "t", model, TINY, "pretrain")
    state = load_file(tmp_path / "t" / "model.safetensors")
    halves = [dict(list(state.items())[:20]), dict(list(state.items())[20:])]
    (tmp_path / "t" / "model.safetensors").unlink()
    index: dict[str, str] = {}
    for number, half in enumerate(halves):
        save_file(half, tmp_path / "t" / f"model-{number}.safetensors")
        index |= dict.fromkeys(half, f"model-{number}.safetensors")
    (tmp_path / "t" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert same(
        dict(sorted(read_checkpoint(tmp_path / "t").state.items())), dict(sorted(model.state_dict().items()))
    )
    (tmp_path / "t" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../secret.safetensors"}})
    )
    with pytest.raises(UserError, match="is not a file beside it"):
        read_checkpoint(tmp_path / "t")


@pytest.mark.parametrize("form", ["list", "numbers", "names"])
def test_a_label_map_slices_the_head(tmp_path: Path, form: str) -> None:
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
def test_a_wrong_label_map_is_refused(tmp_path: Path, content: object, words: str) -> None:
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
