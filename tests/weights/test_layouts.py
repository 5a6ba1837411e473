"""Other people's layouts, in every wrapping they come in."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.errors import UserError
from videomae2.positions import sinusoid
from videomae2.settings import ModelSettings
from videomae2.weights import load_into, read_checkpoint, save_safetensors
from videomae2.weights.describe import convert

from ..small_networks import CLIP, TINY, autoencoder, classifier, hub_folder, same


@pytest.mark.parametrize("nest", ["model", "module", "state_dict", None, "deep"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_released_pretraining_in_every_wrapping(tmp_path: Path, nest: str | None, prefix: str) -> None:
    model = autoencoder()
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    wrapped: dict[Any, dict[str, Any]] = {"deep": {"model": {"module": state}}, None: state}
    content = wrapped.get(nest, {str(nest): state})
    torch.save(
        {**content, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}} if nest else content,
        tmp_path / "a.pth",
    )
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert (checkpoint.layout, checkpoint.kind) == ("released", "pretrain")
    assert same(checkpoint.state, model.state_dict())


@pytest.mark.parametrize("prefix", ["", "encoder.", "backbone.", "module.encoder.", "_orig_mod."])
def test_released_classifier_with_every_prefix(tmp_path: Path, prefix: str) -> None:
    model = classifier()
    wrapper = prefix.removesuffix("encoder.").removesuffix("backbone.")
    state = {}
    for name, tensor in model.state_dict().items():
        head = name.startswith(("head.", "fc_norm."))
        state[(wrapper if head else prefix) + name.removeprefix("encoder.")] = tensor
    torch.save(
        {"module": state, "args": argparse.Namespace(nb_classes=7, num_frames=8, input_size=32)},
        tmp_path / "a.pth",
    )
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert (checkpoint.layout, checkpoint.kind, checkpoint.num_classes) == ("released", "classifier", 7)
    other = classifier(seed=8)
    load_into(other, checkpoint)
    assert torch.equal(other(CLIP), model(CLIP))


def test_the_hub_layout(tmp_path: Path) -> None:
    model = classifier()
    checkpoint = read_checkpoint(hub_folder(tmp_path / "hub", model))
    assert (checkpoint.layout, checkpoint.kind) == ("hub", "encoder")
    assert checkpoint.settings == ModelSettings(
        num_frames=8, size=32, patch=8, width=48, depth=2, num_heads=3, native_frames=8, native_size=32
    )
    assert any("trained with labels" in note for note in checkpoint.notes)
    other = classifier(seed=8)
    report = load_into(other, checkpoint, expect="encoder")
    assert report.missing == ("head.weight", "head.bias") and not report.unexpected
    assert torch.equal(other.features(CLIP), model.features(CLIP))
    with pytest.raises(UserError, match=r"only in part: 2 missing \(head.weight, head.bias\)"):
        load_into(other, checkpoint)


def test_mmaction2(tmp_path: Path) -> None:
    model = classifier()
    state = {"data_preprocessor.mean": torch.zeros(3), "backbone.pos_embed": sinusoid(64, 48)[None]}
    for name, tensor in model.state_dict().items():
        new = name.removeprefix("encoder.").replace("patch_embed.proj.", "patch_embed.projection.")
        new = new.replace("mlp.fc1.", "mlp.layers.0.0.").replace("mlp.fc2.", "mlp.layers.1.")
        state[new.replace("head.", "cls_head.fc_cls.") if new.startswith("head.") else f"backbone.{new}"] = (
            tensor
        )
    torch.save({"meta": {"mmaction_version": "1.0"}, "state_dict": state}, tmp_path / "mm.pth")
    checkpoint = read_checkpoint(tmp_path / "mm.pth")
    assert (checkpoint.layout, checkpoint.kind) == ("mmaction2", "classifier")
    assert same(dict(sorted(checkpoint.state.items())), dict(sorted(model.state_dict().items())))
    assert any(
        "left out encoder.pos_embed [1, 64, 48]: it is the sinusoid" in note for note in checkpoint.notes
    )
    assert checkpoint.settings is None and any(
        "number of heads of width 48" in note for note in checkpoint.notes
    )


@pytest.mark.parametrize("through", ["released", "transformers"])
@pytest.mark.parametrize("kind", ["pretrain", "classifier"])
def test_ours_to_another_layout_and_back_is_bit_equal(tmp_path: Path, through: str, kind: str) -> None:
    model = autoencoder() if kind == "pretrain" else classifier()
    source = save_safetensors(tmp_path / "a.safetensors", model, TINY, kind, extra={"step": 1})
    middle = tmp_path / ("b.pth" if through == "released" else "b")
    convert(source, middle, through)
    convert(middle, tmp_path / "c.safetensors", "ours")
    back = read_checkpoint(tmp_path / "c.safetensors")
    assert same(back.state, model.state_dict())
    assert (back.kind, back.settings, back.metadata) == (kind, TINY, {"step": 1})
    assert source.read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_a_lightning_prefix_is_read_as_the_hub_layout(tmp_path: Path) -> None:
    model = autoencoder()
    torch.save({"state_dict": {f"model.{n}": t for n, t in model.state_dict().items()}}, tmp_path / "a.ckpt")
    assert same(read_checkpoint(tmp_path / "a.ckpt").state, model.state_dict())


def test_two_networks_in_one_file_are_refused(tmp_path: Path) -> None:
    state = {n.removeprefix("encoder."): t for n, t in classifier().state_dict().items()}
    torch.save({"model": state | {f"backbone.{n}": t for n, t in state.items()}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="holds two networks"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "prefix",
    [
        "model.", "net.", "network.", "module.model.", "model.module.", "model._orig_mod.",
        "net.model.module.",
        "_forward_module.model.", "model._fsdp_wrapped_module.", "student.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("nest", ["state_dict", "module", "model_state_dict", "weights", "deep"])
def test_a_network_is_found_under_any_name_in_any_nest(tmp_path: Path, prefix: str, nest: str) -> None:
    model = classifier()
    state: dict[str, Any] = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {"criterion.weight": torch.ones(7), "val_acc.total": torch.tensor(3)}
    content = {"state_dict": {"module": {"model": state}}} if nest == "deep" else {nest: state}
    torch.save({**content, "epoch": 3, "optimizer_states": [{}]}, tmp_path / "a.ckpt")
    checkpoint = read_checkpoint(tmp_path / "a.ckpt")
    assert same(checkpoint.state, model.state_dict())
    assert any(
        "left out what lies around the network: criterion.weight, val_acc.total" in n
        for n in checkpoint.notes
    )


def test_a_head_beside_the_encoders_name_is_taken_along(tmp_path: Path) -> None:
    model = classifier()
    state = {
        f"model.{'' if name.startswith(('head.', 'fc_norm.')) else 'backbone.'}{name}": tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    checkpoint = read_checkpoint(tmp_path / "a.ckpt")
    assert checkpoint.kind == "classifier" and same(checkpoint.state, dict(model.state_dict()))


@pytest.mark.parametrize("others", ["teacher.", "ema_model."])
def test_a_teacher_beside_a_student_is_refused(tmp_path: Path, others: str) -> None:
    state = classifier().state_dict()
    both = {f"{prefix}{name}": tensor for prefix in ("model.", others) for name, tensor in state.items()}
    torch.save({"state_dict": both}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=f"holds two networks.*{others}encoder"):
        read_checkpoint(tmp_path / "a.ckpt")
