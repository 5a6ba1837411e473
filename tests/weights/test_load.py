"""Loads report every tensor and refuse a partial match, before anything is copied."""

from dataclasses import replace

import pytest
import torch

from videomae2.errors import UserError
from videomae2.models.build import build_encoder
from videomae2.weights.describe import describe, load_into, read_checkpoint, save_safetensors

from ..small_networks import CLIP, TINY, autoencoder, classifier, same


def test_pretrained_into_a_classifier_is_allowed_when_asked_for(tmp_path):
    pretrained, model = autoencoder(), classifier()
    checkpoint = read_checkpoint(save_safetensors(tmp_path / "a.safetensors", pretrained, TINY, "pretrain"))
    head = model.head.weight.clone()
    with pytest.raises(
        UserError, match=r"matches this model only in part: 4 missing .* and 34 unexpected .*no head"
    ) as error:
        load_into(model, checkpoint)
    assert "\n" not in str(error.value) and not torch.equal(
        model.encoder.blocks[0].mlp.fc1.weight, pretrained.encoder.blocks[0].mlp.fc1.weight
    )
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


def test_another_number_of_classes_needs_a_label_map_or_a_fresh_head(tmp_path):
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
    ({"width": 96}, r"encoder.patch_embed.proj.weight \[48, 3, 2, 8, 8\] in the file, \[96, 3, 2, 8, 8\] in the model"),
    ({"patch": 16}, r"\[48, 3, 2, 8, 8\] in the file, \[48, 3, 2, 16, 16\] in the model"),
    ({"decoder_width": 12}, r"mask_token \[1, 1, 24\] in the file, \[1, 1, 12\] in the model|decoder"),
    ({"depth": 3}, r"13 missing \(encoder.blocks.2"),
])  # fmt: skip
def test_another_architecture_is_named_and_nothing_is_copied(tmp_path, change, words):
    checkpoint = read_checkpoint(
        save_safetensors(tmp_path / "a.safetensors", autoencoder(), TINY, "pretrain")
    )
    other = autoencoder(4, replace(TINY, **change))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(UserError, match=words) as error:
        load_into(other, checkpoint)
    assert "seems to hold a vision transformer (width 48, depth 2, 2x8x8 cubes" in str(error.value)
    assert same(before, other.state_dict())


def test_a_partial_load_can_be_asked_for(tmp_path):
    checkpoint = read_checkpoint(
        save_safetensors(tmp_path / "a.safetensors", autoencoder(), TINY, "pretrain")
    )
    report = load_into(autoencoder(4, replace(TINY, depth=3)), checkpoint, allow_partial=True)
    assert len(report.missing) == 13 and len(report.matched) == 62


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_into_full(tmp_path, dtype):
    model = classifier()
    torch.save({"model": {n: t.to(dtype) for n, t in model.state_dict().items()}}, tmp_path / "a.pth")
    other = classifier(seed=8)
    report = load_into(other, read_checkpoint(tmp_path / "a.pth"))
    assert f"{str(dtype).removeprefix('torch.')} read into float32" in report.notes
    assert all(torch.equal(t, model.state_dict()[n].to(dtype).float()) for n, t in other.state_dict().items())
    assert str(dtype).removeprefix("torch.") in describe(tmp_path / "a.pth")


def test_a_learned_position_table_is_kept_and_interpolated_to_another_grid(tmp_path):
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
