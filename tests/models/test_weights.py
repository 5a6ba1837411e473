"""Weights in every layout: read, reported, refused, written and read back, on tiny networks."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videomae2.chance import torch_generator
from videomae2.errors import UserError
from videomae2.heads.classify import Classifier, build_classifier
from videomae2.models import hub
from videomae2.models.autoencoder import Autoencoder
from videomae2.models.build import build_autoencoder, build_encoder
from videomae2.models.positions import sinusoid
from videomae2.models.weights import (
    convert,
    describe,
    load_into,
    read_checkpoint,
    save_safetensors,
    slice_head,
    write_released,
    write_transformers,
)
from videomae2.settings import ModelSettings

TINY = ModelSettings(
    num_frames=8, size=32, patch=8, width=48, depth=2, num_heads=3, decoder_width=24, decoder_heads=2, decoder_depth=2,
    native_frames=8, native_size=32,
)  # fmt: skip
CLIP = torch.rand(2, 8, 3, 32, 32, generator=torch_generator(5))


def autoencoder(seed: int = 1, settings: ModelSettings = TINY) -> Autoencoder:
    return _stirred(build_autoencoder(settings), seed)


def classifier(num_classes: int = 7, seed: int = 2, settings: ModelSettings = TINY) -> Classifier:
    return _stirred(build_classifier(settings, num_classes), seed)


def _stirred(model: nn.Module, seed: int) -> nn.Module:
    """Random values everywhere, zero biases and unit gains too, so that a lost tensor changes the output."""
    generator = torch_generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# ---- ours


def test_ours_comes_back_bit_equal_with_settings_classes_and_extra(tmp_path):
    model, names = classifier(3), ("up", "down", "left")
    file = save_safetensors(tmp_path / "a.safetensors", model, TINY, "classifier", class_names=names, extra={"step": 12})
    checkpoint = read_checkpoint(file)
    assert same(checkpoint.state, model.state_dict())
    assert (checkpoint.kind, checkpoint.layout, checkpoint.settings) == ("classifier", "ours", TINY)
    assert (checkpoint.num_classes, checkpoint.class_names, checkpoint.metadata) == (3, names, {"step": 12})
    other = classifier(3, seed=9)
    report = load_into(other, checkpoint)
    assert report.complete and torch.equal(other(CLIP), model(CLIP))
    assert str(report).endswith("32 tensors matched, 0 missing, 0 unexpected, 0 mismatched, 0 resized")


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    file = save_safetensors(tmp_path / "a.safetensors", autoencoder(), TINY, "pretrain")
    before = file.read_bytes()

    def full(state, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("videomae2.models.writers.save_file", full)
    with pytest.raises(UserError, match=r"could not be written .No space left on device.; free space"):
        save_safetensors(file, autoencoder(3), TINY, "pretrain")
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_a_newer_format_or_setting_is_refused(tmp_path):
    file, state = tmp_path / "a.safetensors", autoencoder().state_dict()
    for note, words in (({"format": 99}, "written by a newer version"), ({"settings": {"flux": 1}}, "does not know .flux.")):
        save_file(state, file, {"videomae2": json.dumps({"format": 1, "kind": "pretrain"} | note)})
        with pytest.raises(UserError, match=words):
            read_checkpoint(file)


# ---- the released layout


@pytest.mark.parametrize("nest", ["model", "module", "state_dict", None, "deep"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_released_pretraining_in_every_wrapping(tmp_path, nest, prefix):
    model = autoencoder()
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    content = {"deep": {"model": {"module": state}}, None: state}.get(nest, {nest: state})
    torch.save({**content, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}} if nest else content, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert (checkpoint.layout, checkpoint.kind) == ("released", "pretrain")
    assert same(checkpoint.state, model.state_dict())


@pytest.mark.parametrize("prefix", ["", "encoder.", "backbone.", "module.encoder.", "_orig_mod."])
def test_released_classifier_with_every_prefix(tmp_path, prefix):
    model = classifier()
    wrapper = prefix.removesuffix("encoder.").removesuffix("backbone.")
    state = {}
    for name, tensor in model.state_dict().items():
        head = name.startswith(("head.", "fc_norm."))
        state[(wrapper if head else prefix) + name.removeprefix("encoder.")] = tensor
    torch.save({"module": state, "args": argparse.Namespace(nb_classes=7, num_frames=8, input_size=32)}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert (checkpoint.layout, checkpoint.kind, checkpoint.num_classes) == ("released", "classifier", 7)
    other = classifier(seed=8)
    load_into(other, checkpoint)
    assert torch.equal(other(CLIP), model(CLIP))


def test_heads_are_known_from_the_scales_of_cosine_attention(tmp_path, golden):
    tensors = load_file(golden / "pretrain_dual_cosattn_layerscale.safetensors")
    weights = {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}
    torch.save({"model": weights, "args": argparse.Namespace(num_frames=8, input_size=32)}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert checkpoint.settings == replace(TINY, cosine_attention=True, layer_scale=0.1)
    assert load_into(build_autoencoder(checkpoint.settings), checkpoint).complete


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


def test_released_is_written_as_the_released_code_expects(tmp_path):
    model = classifier()
    write_released(tmp_path / "a.pth", model, TINY, "classifier")
    plain = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert {"patch_embed.proj.weight", "blocks.1.attn.q_bias", "fc_norm.weight", "head.bias"} <= set(plain)
    assert not any(name.startswith("encoder.") for name in plain)
    write_released(tmp_path / "b.pth", autoencoder(), TINY, "pretrain")
    plain = torch.load(tmp_path / "b.pth", weights_only=True)["model"]
    assert {"encoder.patch_embed.proj.weight", "mask_token", "decoder.head.weight", "encoder_to_decoder.weight"} <= set(plain)


@pytest.mark.parametrize("through", ["released", "transformers"])
@pytest.mark.parametrize("kind", ["pretrain", "classifier"])
def test_ours_to_another_layout_and_back_is_bit_equal(tmp_path, through, kind):
    model = autoencoder() if kind == "pretrain" else classifier()
    source = save_safetensors(tmp_path / "a.safetensors", model, TINY, kind, extra={"step": 1})
    middle = tmp_path / ("b.pth" if through == "released" else "b")
    convert(source, middle, through)
    convert(middle, tmp_path / "c.safetensors", "ours")
    back = read_checkpoint(tmp_path / "c.safetensors")
    assert same(back.state, model.state_dict())
    assert (back.kind, back.settings, back.metadata) == (kind, TINY, {"step": 1})
    assert source.read_bytes() == (tmp_path / "c.safetensors").read_bytes()


# ---- the hub's and MMAction2's layouts


def hub_folder(folder: Path, model: Classifier) -> Path:
    """A repository like OpenGVLab/VideoMAEv2-Base: `model.` before every name, no head, no final norm, but an fc_norm."""
    folder.mkdir()
    state = {f"model.{n.removeprefix('encoder.')}": t for n, t in model.state_dict().items() if not n.startswith("head.")}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    inner = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "tubelet_size": 2, "num_frames": 8}
    config = {"model_type": "VideoMAEv2_Base", "model_config": inner | {"use_mean_pooling": True, "num_classes": 0}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_hub_layout(tmp_path):
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


def test_a_hub_name_is_fetched_once_and_read_from_its_folder(tmp_path, monkeypatch):
    folder, asked = hub_folder(tmp_path / "hub", classifier()), []

    def download(repo, file):
        from huggingface_hub.errors import EntryNotFoundError

        asked.append((repo, file))
        if not (folder / file).exists():
            raise EntryNotFoundError("404")
        return str(folder / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    checkpoint = read_checkpoint("OpenGVLab/VideoMAEv2-Base")
    assert (checkpoint.layout, checkpoint.source) == ("hub", "OpenGVLab/VideoMAEv2-Base")
    assert asked == [("OpenGVLab/VideoMAEv2-Base", "model.safetensors"), ("OpenGVLab/VideoMAEv2-Base", "config.json")]
    torch.save({"model": autoencoder().state_dict()}, folder / "pt.pth")
    assert read_checkpoint("OpenGVLab/VideoMAE2/pt.pth").kind == "pretrain"
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds none of .*; name the file: OpenGVLab/VideoMAE2/path/in/repository.pth"):
        read_checkpoint("OpenGVLab/VideoMAE2")


def test_an_unreachable_hub_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"no file or folder here, and .*check the path or the network") as error:
        read_checkpoint("nobody-at-all/no-such-model")
    assert "\n" not in str(error.value)


def test_what_is_no_hub_name_is_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert hub.is_hub_name("OpenGVLab/VideoMAEv2-Base") and hub.is_hub_name("OpenGVLab/VideoMAE2/mae-g/vit_g.pth")
    for name in ("weights.pth", "runs/a", "weights/model.pth", "/tmp/a/b", "./a/b", "a/../b", "a b/c"):
        assert not hub.is_hub_name(name)
    with pytest.raises(UserError, match=r"there are no weights at runs/missing.pth; give a .safetensors or .pth file"):
        read_checkpoint("runs/missing.pth")


def test_mmaction2(tmp_path):
    model = classifier()
    state = {"data_preprocessor.mean": torch.zeros(3), "backbone.pos_embed": sinusoid(64, 48)[None]}
    for name, tensor in model.state_dict().items():
        new = name.removeprefix("encoder.").replace("patch_embed.proj.", "patch_embed.projection.")
        new = new.replace("mlp.fc1.", "mlp.layers.0.0.").replace("mlp.fc2.", "mlp.layers.1.")
        state[new.replace("head.", "cls_head.fc_cls.") if new.startswith("head.") else f"backbone.{new}"] = tensor
    torch.save({"meta": {"mmaction_version": "1.0"}, "state_dict": state}, tmp_path / "mm.pth")
    checkpoint = read_checkpoint(tmp_path / "mm.pth")
    assert (checkpoint.layout, checkpoint.kind) == ("mmaction2", "classifier")
    assert same(dict(sorted(checkpoint.state.items())), dict(sorted(model.state_dict().items())))
    assert any("left out encoder.pos_embed [1, 64, 48]: it is the sinusoid" in note for note in checkpoint.notes)
    assert checkpoint.settings is None and any("number of heads of width 48" in note for note in checkpoint.notes)


# ---- heads, partial matches, other types


@pytest.mark.parametrize("form", ["list", "numbers", "names"])
def test_a_label_map_slices_the_head(tmp_path, form):
    model, chosen = classifier(7), [5, 0, 3]
    source = save_safetensors(tmp_path / "a.safetensors", model, TINY, "classifier", class_names=list("abcdefg"))
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
        slice_head(read_checkpoint(save_safetensors(tmp_path / "b.safetensors", autoencoder(), TINY, "pretrain")), [0])


def test_pretrained_into_a_classifier_is_allowed_when_asked_for(tmp_path):
    pretrained, model = autoencoder(), classifier()
    checkpoint = read_checkpoint(save_safetensors(tmp_path / "a.safetensors", pretrained, TINY, "pretrain"))
    head = model.head.weight.clone()
    with pytest.raises(UserError, match=r"matches this model only in part: 4 missing .* and 34 unexpected .*no head") as error:
        load_into(model, checkpoint)
    assert "\n" not in str(error.value) and not torch.equal(
        model.encoder.blocks[0].mlp.fc1.weight, pretrained.encoder.blocks[0].mlp.fc1.weight
    )
    report = load_into(model, checkpoint, expect="encoder")
    assert report.missing == ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias") and not report.complete
    assert torch.equal(model.head.weight, head)
    assert "missing: head.weight" in str(report) and "more of decoder.*" in str(report)
    bare = build_encoder(TINY)
    load_into(bare, checkpoint, expect="encoder")
    assert torch.equal(bare(CLIP), pretrained.encoder(CLIP))


def test_another_number_of_classes_needs_a_label_map_or_a_fresh_head(tmp_path):
    checkpoint = read_checkpoint(save_safetensors(tmp_path / "a.safetensors", classifier(7), TINY, "classifier"))
    with pytest.raises(UserError, match=r"head.weight \[7, 48\] in the file, \[5, 48\] in the model.*give a label map"):
        load_into(classifier(5), checkpoint)
    report = load_into(classifier(5), checkpoint, expect="encoder")
    assert report.mismatched[0].startswith("head.weight") and not report.missing and "fc_norm.weight" in report.matched


@pytest.mark.parametrize(("change", "words"), [
    ({"width": 96}, r"encoder.patch_embed.proj.weight \[48, 3, 2, 8, 8\] in the file, \[96, 3, 2, 8, 8\] in the model"),
    ({"patch": 16}, r"\[48, 3, 2, 8, 8\] in the file, \[48, 3, 2, 16, 16\] in the model"),
    ({"decoder_width": 12}, r"mask_token \[1, 1, 24\] in the file, \[1, 1, 12\] in the model|decoder"),
    ({"depth": 3}, r"13 missing \(encoder.blocks.2"),
])  # fmt: skip
def test_another_architecture_is_named_and_nothing_is_copied(tmp_path, change, words):
    checkpoint = read_checkpoint(save_safetensors(tmp_path / "a.safetensors", autoencoder(), TINY, "pretrain"))
    other = autoencoder(4, replace(TINY, **change))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(UserError, match=words) as error:
        load_into(other, checkpoint)
    assert "seems to hold a vision transformer (width 48, depth 2, 2x8x8 cubes" in str(error.value)
    assert same(before, other.state_dict())


def test_a_partial_load_can_be_asked_for(tmp_path):
    checkpoint = read_checkpoint(save_safetensors(tmp_path / "a.safetensors", autoencoder(), TINY, "pretrain"))
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
    assert report.resized == ("encoder.pos_embed [1, 64, 48] -> [1, 128, 48], interpolated from (4, 4, 4) to (8, 4, 4) tokens",)
    with pytest.raises(UserError, match=r"1 unexpected \(encoder.pos_embed\)"):
        load_into(autoencoder(), checkpoint)
    torch.save({"model": model.state_dict()}, tmp_path / "a.pth")
    assert (
        "encoder.pos_embed [1, 64, 48] is not the sinusoid: taken as a learned table" in read_checkpoint(tmp_path / "a.pth").notes
    )


# ---- refusals


def test_what_is_no_videomae_is_refused(tmp_path):
    torch.save({"model": {"conv1.weight": torch.ones(3), "fc.bias": torch.ones(2)}}, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match=r"not a VideoMAE's weights.*conv1.weight, fc.bias"):
        read_checkpoint(tmp_path / "resnet.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        read_checkpoint(tmp_path / "none.pth")
    torch.save(
        {"patch_embed.proj.weight": torch.ones(4, 3, 8, 8), "blocks.0.mlp.fc1.weight": torch.ones(4, 4)}, tmp_path / "i.pth"
    )
    with pytest.raises(UserError, match="is this an image model"):
        read_checkpoint(tmp_path / "i.pth")
    with pytest.raises(UserError, match=r"holds none of model.safetensors"):
        read_checkpoint(tmp_path)


def test_writing_refuses_what_the_layout_cannot_hold(tmp_path):
    file = save_safetensors(tmp_path / "a.safetensors", autoencoder(), TINY, "pretrain")
    with pytest.raises(UserError, match=r"does not end with \.pth.*try .*b\.pth"):
        convert(file, tmp_path / "b.bin", "released")
    with pytest.raises(UserError, match="layout is 'onnx'; weights are written as ours, released, transformers"):
        convert(file, tmp_path / "b", "onnx")
    for change, words in (
        ({"cosine_attention": True}, "cosine attention"),
        ({"layer_scale": 0.1}, "LayerScale"),
        ({"num_frames": 16}, "positions interpolated from 8x32x32"),
    ):
        settings = replace(TINY, **change)
        with pytest.raises(UserError, match=f"cannot express .*{words}"):
            write_transformers(tmp_path / "t", autoencoder(1, settings), settings, "pretrain")
    assert not (tmp_path / "t").exists() and not (tmp_path / "b.bin").exists()


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
    assert same(dict(sorted(read_checkpoint(tmp_path / "t").state.items())), dict(sorted(model.state_dict().items())))
    (tmp_path / "t" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(UserError, match="is not a file beside it"):
        read_checkpoint(tmp_path / "t")


def test_describe_says_what_is_there_and_what_is_not(tmp_path):
    file = save_safetensors(tmp_path / "a.safetensors", classifier(3), TINY, "classifier", class_names=("up", "down", "left"))
    text = describe(file)
    table = "encoder.blocks.*.attn.qkv.weight [144, 48] in 2 blocks"
    for words in (
        "width 48, depth 2",
        "classifier",
        "ours",
        "(float32)",
        "64 tokens",
        "3 (up, down, left)",
        "decoder, final",
        table,
    ):
        assert words in text
    assert f"{sum(p.numel() for p in classifier(3).parameters()):,} in 32 tensors" in text
