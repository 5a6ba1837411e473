"""Features of headless weights of others: their own vector in every layout, or an error."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from videomae2.api.model import load
from videomae2.errors import UserError
from videomae2.heads.classify import Classifier
from videomae2.weights import read_checkpoint, save_safetensors
from videomae2.weights.describe import convert

from ..small_networks import TINY, classifier, hub_folder

CLIP = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TOLD: dict[str, Any] = {
    "name": "vit_b16",
    "num_heads": 3,
    "num_frames": 8,
    "size": 32,
    "patch": 8,
    "width": 48,
    "depth": 2,
}
TOLD |= {"native_frames": 8, "native_size": 32}


@pytest.fixture
def model() -> Classifier:
    return classifier()


@pytest.fixture
def wanted(model: Classifier) -> Tensor:
    with torch.no_grad():
        return model.features(CLIP[None])[0]


def headless(model: Classifier, prefix: str = "") -> dict[str, Tensor]:
    return {
        prefix + name.removeprefix("encoder."): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("head.")
    }


def test_the_hubs_own_vector(tmp_path: Path, model: Classifier, wanted: Tensor) -> None:
    loaded = load(hub_folder(tmp_path / "hub", model), device="cpu")
    torch.testing.assert_close(loaded.features(CLIP), wanted, rtol=1e-5, atol=1e-5)
    assert loaded.features(CLIP, tokens=True).shape == (64, 48)
    assert loaded.report.complete


@pytest.mark.parametrize(
    "prefix", ["", "module.", "encoder.", "backbone.", "model.", "net._orig_mod.encoder."]
)
def test_the_same_vector_from_every_place(
    tmp_path: Path, model: Classifier, wanted: Tensor, prefix: str
) -> None:
    torch.save({"model": headless(model, prefix)}, tmp_path / "a.pth")
    torch.testing.assert_close(
        load(tmp_path / "a.pth", device="cpu", **TOLD).features(CLIP), wanted, rtol=1e-5, atol=1e-5
    )


def test_the_same_vector_after_conversion(tmp_path: Path, model: Classifier, wanted: Tensor) -> None:
    folder = hub_folder(tmp_path / "hub", model)
    convert(folder, tmp_path / "ours.safetensors", "ours")
    convert(folder, tmp_path / "released.pth", "released")
    for name in ("ours.safetensors", "released.pth"):
        torch.testing.assert_close(
            load(tmp_path / name, device="cpu").features(CLIP), wanted, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("norm.weight", [48]),
        ("cls_token", [1, 1, 48]),
        ("blocks.0.attn.relative_position_bias_table", [9, 3]),
        ("blocks.1.adapter.weight", [48, 48]),
        ("pos_embed", [1, 64, 48]),
    ],
)
def test_a_tensor_that_changes_the_answer_is_an_error(
    tmp_path: Path, model: Classifier, name: str, shape: list[int]
) -> None:
    folder = hub_folder(tmp_path / "hub", model)
    state = load_file(folder / "model.safetensors")
    save_file(state | {f"model.{name}": torch.ones(shape)}, folder / "model.safetensors")
    if name == "pos_embed":  # a learned table: another network, which ours can be
        assert load(folder, device="cpu").settings.positions == "learned"
        return
    with pytest.raises(UserError, match=re.escape(name)) as error:
        load(folder, device="cpu")
    assert "\n" not in str(error.value)


def test_a_learned_table_of_transformers_is_no_stray_tensor(tmp_path: Path) -> None:
    source = save_safetensors(tmp_path / "a.safetensors", classifier(), TINY, "classifier")
    convert(source, tmp_path / "t", "transformers")
    state = load_file(tmp_path / "t" / "model.safetensors")
    state["videomae.embeddings.position_embeddings"] = torch.randn(1, 64, 48)
    save_file(state, tmp_path / "t" / "model.safetensors")
    config = (tmp_path / "t" / "config.json").read_text().replace('"videomae2":', '"of_old":')
    (tmp_path / "t" / "config.json").write_text(config)
    checkpoint = read_checkpoint(tmp_path / "t")
    assert checkpoint.settings is not None and checkpoint.settings.positions == "learned"
    assert torch.equal(
        load(tmp_path / "t", device="cpu").encoder.pos_embed.data, checkpoint.state["encoder.pos_embed"]
    )
