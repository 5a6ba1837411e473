"""What a file turns out to be: sizes told by shapes, half precision, learned positions, and what is
refused.
"""

import argparse
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from videomae2.errors import UserError
from videomae2.models.build import build_autoencoder
from videomae2.settings import ModelSettings
from videomae2.weights.describe import (
    describe,
    load_into,
    read_checkpoint,
    write_transformers,
)

from ..small_networks import TINY, autoencoder, same


@pytest.mark.parametrize("name", ["vit_s16", "vit_b16", "vit_g14"])
def test_the_released_sizes_are_recognised_by_their_shapes(tmp_path, name):
    with torch.device("meta"):
        shapes = build_autoencoder(ModelSettings(name=name), device="meta").state_dict()
    # One value expanded to the whole shape: a billion parameters in a file of a few kilobytes.
    state = {key: torch.zeros(1, dtype=torch.float16).expand(tensor.shape) for key, tensor in shapes.items()}
    torch.save({"model": state, "args": argparse.Namespace(model="pretrain")}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert checkpoint.settings == ModelSettings(name=name)
    assert f"{name} (width" in describe(tmp_path / "a.pth") and "no head" in str(checkpoint.sketch)


def test_heads_are_known_from_the_scales_of_cosine_attention(tmp_path, golden):
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


def test_a_newer_format_or_setting_is_refused(tmp_path):
    file, state = tmp_path / "a.safetensors", autoencoder().state_dict()
    for note, words in (
        ({"format": 99}, "written by a newer version"),
        ({"settings": {"flux": 1}}, "does not know .flux."),
    ):
        save_file(state, file, {"videomae2": json.dumps({"format": 1, "kind": "pretrain"} | note)})
        with pytest.raises(UserError, match=words):
            read_checkpoint(file)


def test_what_is_no_videomae_is_refused(tmp_path):
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


def test_sharded_folders_are_read_and_may_not_point_elsewhere(tmp_path):
    model = autoencoder()
    write_transformers(tmp_path / "t", model, TINY, "pretrain")
    state = load_file(tmp_path / "t" / "model.safetensors")
    halves = [dict(list(state.items())[:20]), dict(list(state.items())[20:])]
    (tmp_path / "t" / "model.safetensors").unlink()
    index = {}
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
