"""Loads report every tensor, in few words, and refuse a partial match before anything is copied."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.errors import UserError
from videomae2.models.build import build_encoder
from videomae2.weights import load_into, read_checkpoint, save_safetensors
from videomae2.weights.describe import describe
from videomae2.weights.load import folded_blocks, grouped

from ..small_networks import CLIP, TINY, autoencoder, classifier, same


def test_pretrained_into_a_classifier_is_allowed_when_asked_for(tmp_path: Path) -> None:
    pretrained, model = autoencoder(), classifier()
    checkpoint = read_checkpoint(save_safetensors(tmp_path / "a.safetensors", pretrained, TINY, "pretrain"))
    head, first_mlp = model.head.weight.clone(), "blocks.0.mlp.fc1.weight"
    with pytest.raises(
        UserError, match=r"matches this model only in part: 4 missing .* and 34 unexpected .*no head"
    ) as error:
        load_into(model, checkpoint)
    assert "\n" not in str(error.value)
    unloaded, loaded = (each.encoder.get_parameter(first_mlp) for each in (model, pretrained))
    assert not torch.equal(unloaded, loaded)
    report = load_into(model, checkpoint, expect="encoder")
    assert (
        report.missing == ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
        and not report.complete
    )
    assert torch.equal(model.head.weight, head)
    assert "  missing: fc_norm.* (2), head.* (2)\n" in str(report)
    assert "  unexpected: decoder.* (30), encoder.norm.* (2), encoder_to_decoder.weight, mask_token" in str(
        report
    )
    bare = build_encoder(TINY)
    load_into(bare, checkpoint, expect="encoder")
    assert torch.equal(bare(CLIP), pretrained.encoder(CLIP))


def test_another_number_of_classes_needs_a_label_map_or_a_fresh_head(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(
        save_safetensors(tmp_path / "a.safetensors", classifier(7), TINY, "classifier")
    )
    with pytest.raises(
        UserError, match=r"head.weight \[7, 48\] in the file, \[5, 48\] in the model.*give a label map"
    ):
        load_into(classifier(5), checkpoint)
    report = load_into(classifier(5), checkpoint, expect="encoder")
    assert (
        report.mismatched[0].startswith("head.weight")
        and not report.missing
        and "fc_norm.weight" in report.matched
    )


@pytest.mark.parametrize(("change", "words"), [
    ({"width": 96}, r"encoder.patch_embed.proj.weight \[48, 3, 2, 8, 8\] in the file, \[96, 3, 2, 8, 8\] in"),
    ({"patch": 16}, r"\[48, 3, 2, 8, 8\] in the file, \[48, 3, 2, 16, 16\] in the model"),
    ({"decoder_width": 12}, r"mask_token \[1, 1, 24\] in the file, \[1, 1, 12\] in the model|decoder"),
    ({"depth": 3}, r"13 missing \(encoder.blocks.2"),
])  # fmt: skip
def test_another_architecture_is_named_and_nothing_is_copied(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    checkpoint = read_checkpoint(
        save_safetensors(tmp_path / "a.safetensors", autoencoder(), TINY, "pretrain")
    )
    other = autoencoder(4, replace(TINY, **change))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(UserError, match=words) as error:
        load_into(other, checkpoint)
    assert "seems to hold a vision transformer (width 48, depth 2, 2x8x8 cubes" in str(error.value)
    assert same(before, other.state_dict())


def test_a_partial_load_can_be_asked_for(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(
        save_safetensors(tmp_path / "a.safetensors", autoencoder(), TINY, "pretrain")
    )
    report = load_into(autoencoder(4, replace(TINY, depth=3)), checkpoint, allow_partial=True)
    assert len(report.missing) == 13 and len(report.matched) == 62


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_into_full(tmp_path: Path, dtype: torch.dtype) -> None:
    model = classifier()
    torch.save({"model": {n: t.to(dtype) for n, t in model.state_dict().items()}}, tmp_path / "a.pth")
    other = classifier(seed=8)
    report = load_into(other, read_checkpoint(tmp_path / "a.pth"))
    assert f"{str(dtype).removeprefix('torch.')} read into float32" in report.notes
    assert all(torch.equal(t, model.state_dict()[n].to(dtype).float()) for n, t in other.state_dict().items())
    assert str(dtype).removeprefix("torch.") in describe(tmp_path / "a.pth")


def test_a_learned_position_table_is_kept_and_interpolated_to_another_grid(tmp_path: Path) -> None:
    learned = replace(TINY, positions="learned")
    model = autoencoder(1, learned)
    checkpoint = read_checkpoint(save_safetensors(tmp_path / "a.safetensors", model, learned, "pretrain"))
    assert load_into(autoencoder(2, learned), checkpoint).complete
    longer = autoencoder(2, replace(learned, num_frames=16))
    report = load_into(longer, checkpoint)
    assert report.resized == (
        "encoder.pos_embed [1, 64, 48] -> [1, 128, 48], interpolated from (4, 4, 4) to (8, 4, 4) tokens",
    )
    with pytest.raises(UserError, match=r"1 unexpected \(encoder.pos_embed\)"):
        load_into(autoencoder(), checkpoint)
    torch.save({"model": model.state_dict()}, tmp_path / "a.pth")
    assert (
        "encoder.pos_embed [1, 64, 48] is not the sinusoid: taken as a learned table"
        in read_checkpoint(tmp_path / "a.pth").notes
    )


BLOCKS = [
    f"encoder.blocks.{n}.{part}"
    for n in range(12)
    for part in ("attn.q_bias", "attn.v_bias", "mlp.fc1.weight")
]


def test_a_branch_that_holds_nothing_else_is_one_word() -> None:
    names = [
        "decoder.blocks.0.norm1.weight",
        "decoder.head.weight",
        "decoder.head.bias",
        "mask_token",
        "encoder.norm.bias",
    ]
    assert grouped(names, BLOCKS) == ["decoder.* (3)", "mask_token", "encoder.norm.bias"]


def test_a_branch_shared_with_others_is_named_tensor_by_tensor() -> None:
    missing = [name for name in BLOCKS if "bias" in name]
    there = [name for name in BLOCKS if name not in missing]
    assert grouped(missing, there) == ["encoder.blocks.0-11.attn.* (2 each)"]
    only_q = [name for name in BLOCKS if "q_bias" in name]
    assert grouped(only_q, [name for name in BLOCKS if name not in only_q]) == [
        "encoder.blocks.0-11.attn.q_bias"
    ]


def test_blocks_that_differ_keep_their_own_lines() -> None:
    names = ["encoder.blocks.0.a", "encoder.blocks.2.a", "encoder.blocks.3.a", "encoder.blocks.3.b"]
    assert grouped(
        names, ["encoder.blocks.3.c", "encoder.blocks.1.a", "encoder.blocks.0.c", "encoder.blocks.2.c"]
    ) == [
        "encoder.blocks.0,2-3.a",
        "encoder.blocks.3.b",
    ]


def test_shapes_after_a_name_stay_with_it() -> None:
    lines = [f"encoder.blocks.{n}.w [4] in the file, [5] in the model" for n in (0, 1)]
    assert folded_blocks(lines) == ["encoder.blocks.0-1.w [4] in the file, [5] in the model"]


def test_nothing_is_nothing() -> None:
    assert grouped([]) == []
