"""Files written whole or not at all, and refused where a layout cannot hold the network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.errors import UserError
from videomae2.weights import load_into, read_checkpoint, save_safetensors
from videomae2.weights.describe import convert
from videomae2.weights.write import write_released, write_transformers

from ..small_networks import CLIP, TINY, autoencoder, classifier, same


def test_ours_comes_back_bit_equal_with_settings_classes_and_extra(tmp_path: Path) -> None:
    model, names = classifier(3), ("up", "down", "left")
    file = save_safetensors(
        tmp_path / "a.safetensors", model, TINY, "classifier", class_names=names, extra={"step": 12}
    )
    checkpoint = read_checkpoint(file)
    assert same(checkpoint.state, model.state_dict())
    assert (checkpoint.kind, checkpoint.layout, checkpoint.settings) == ("classifier", "ours", TINY)
    assert (checkpoint.num_classes, checkpoint.class_names, checkpoint.metadata) == (3, names, {"step": 12})
    other = classifier(3, seed=9)
    report = load_into(other, checkpoint)
    assert report.complete and torch.equal(other(CLIP), model(CLIP))
    assert str(report).endswith("32 tensors matched, 0 missing, 0 unexpected, 0 mismatched, 0 resized")


def test_a_write_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_safetensors(tmp_path / "a.safetensors", autoencoder(), TINY, "pretrain")
    before = file.read_bytes()

    def full(_state: object, path: str | Path, _metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("videomae2.weights.write.save_file", full)
    with pytest.raises(
        UserError,
        match=r"could not be written: the disk is full .*; the one that was there is untouched; make room",
    ):
        save_safetensors(file, autoencoder(3), TINY, "pretrain")
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_released_is_written_as_the_released_code_expects(tmp_path: Path) -> None:
    model = classifier()
    write_released(tmp_path / "a.pth", model, TINY, "classifier")
    plain = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert {"patch_embed.proj.weight", "blocks.1.attn.q_bias", "fc_norm.weight", "head.bias"} <= set(plain)
    assert not any(name.startswith("encoder.") for name in plain)
    write_released(tmp_path / "b.pth", autoencoder(), TINY, "pretrain")
    plain = torch.load(tmp_path / "b.pth", weights_only=True)["model"]
    assert {
        "encoder.patch_embed.proj.weight",
        "mask_token",
        "decoder.head.weight",
        "encoder_to_decoder.weight",
    } <= set(plain)


def test_writing_refuses_what_the_layout_cannot_hold(tmp_path: Path) -> None:
    file = save_safetensors(tmp_path / "a.safetensors", autoencoder(), TINY, "pretrain")
    with pytest.raises(UserError, match=r"expected a file that ends with \.pth.*got .*b\.bin; try .*b\.pth"):
        convert(file, tmp_path / "b.bin", "released")
    with pytest.raises(UserError, match="layout: expected one of ours, released, transformers, got 'onnx'"):
        convert(file, tmp_path / "b", "onnx")
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"cosine_attention": True}, "cosine attention"),
        ({"layer_scale": 0.1}, "LayerScale"),
        ({"num_frames": 16}, "positions interpolated from 8x32x32"),
    )
    for change, words in changes:
        settings = replace(TINY, **change)
        with pytest.raises(UserError, match=f"cannot express .*{words}"):
            write_transformers(tmp_path / "t", autoencoder(1, settings), settings, "pretrain")
    assert not (tmp_path / "t").exists() and not (tmp_path / "b.bin").exists()


def test_what_is_written_may_be_read_by_whoever_may_read_other_new_files(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    for file in (
        save_safetensors(tmp_path / "a.safetensors", classifier(), TINY, "classifier"),
        write_released(tmp_path / "a.pth", classifier(), TINY, "classifier"),
    ):
        assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
