"""A loaded network: predictions, features and reconstructions of a file, and errors that say what to do."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from videomae2.api.model import create_model, load
from videomae2.api.views import load_video, views_of
from videomae2.errors import UserError
from videomae2.heads.classify import Classifier, build_classifier
from videomae2.models.autoencoder import Autoencoder
from videomae2.targets import reconstruction_targets
from videomae2.weights import save_safetensors
from videomae2.weights.describe import convert

from ..small_runs import MODEL, SmallRuns

TINY: dict[str, Any] = {"num_frames": 8, "size": 32, "patch": 8, "width": 48, "depth": 2, "num_heads": 3}


@pytest.fixture
def clip(runs: SmallRuns) -> Path:
    return runs.videos / "left" / "1.mp4"


def test_predictions_are_the_mean_softmax_over_the_views(runs: SmallRuns, clip: Path) -> None:
    model = load(str(runs.finetuned), device="cpu")
    found = model.predict(clip, top=5, clips=2, crops=3)
    views = views_of(clip, model.settings, model.data, 2, 3)
    assert views.shape == (6, 8, 3, 32, 32)
    with torch.no_grad():
        expected = model.module(views).softmax(1).mean(0)
    assert [each.name for each in found] == [model.class_names[i] for i in expected.argsort(descending=True)]
    assert sum(each.score for each in found) == pytest.approx(1, abs=1e-5)
    assert found[0].score == pytest.approx(float(expected.max()), abs=1e-6)
    assert len(model.predict(clip, top=1)) == 1


def test_frames_at_hand_do_as_well_as_a_path(runs: SmallRuns, clip: Path) -> None:
    model = load(str(runs.finetuned), device="cpu")
    frames = load_video(clip, num_frames=8, stride=1, size=32)
    assert model.predict(frames, clips=1, crops=1) == model.predict(clip, clips=1, crops=1)
    with pytest.raises(UserError, match="reads 8 frames"):
        model.predict(frames[:5])


def test_features_are_what_the_head_reads(runs: SmallRuns, clip: Path) -> None:
    model = load(str(runs.finetuned), device="cpu")
    vector = model.features(clip)
    frames = views_of(clip, model.settings, model.data)
    assert isinstance(model.module, Classifier)
    with torch.no_grad():
        torch.testing.assert_close(model.module.head(vector), model.module(frames)[0])
    assert model.features(clip, tokens=True).shape == (64, 48)
    with pytest.raises(UserError, match="expected one view for its tokens, got 2x1 views"):
        model.features(clip, clips=2, tokens=True)


def test_a_pretrained_network_gives_features_too(runs: SmallRuns, clip: Path) -> None:
    model = load(str(runs.pretrained), device="cpu")
    torch.testing.assert_close(model.features(clip), model.features(clip, tokens=True).mean(0))


def test_a_reconstruction_keeps_what_was_visible_and_follows_its_seed(runs: SmallRuns, clip: Path) -> None:
    model = load(str(runs.pretrained), device="cpu")
    found, again, other = (
        model.reconstruct(clip, seed=1),
        model.reconstruct(clip, seed=1),
        model.reconstruct(clip, seed=2),
    )
    visible = found.seen == found.original
    hidden = (found.seen == 128).all(dim=1, keepdim=True).expand_as(visible)
    assert (visible | hidden).all()
    assert 0.7 < hidden.float().mean() < 0.8
    assert torch.equal(found.rebuilt[~hidden], found.original[~hidden])
    assert not torch.equal(found.rebuilt, found.original)
    assert torch.equal(found.rebuilt, again.rebuilt) and found.error == again.error
    assert not torch.equal(found.seen, other.seen)


def test_a_perfect_prediction_is_shown_as_the_original(
    runs: SmallRuns, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(str(runs.pretrained), device="cpu")
    monkeypatch.setattr(
        model.module,
        "forward",
        lambda frames, split: reconstruction_targets(frames, model.grid, split.targets, "channel"),
    )
    found = model.reconstruct(clip)
    assert found.error == 0
    assert (found.rebuilt.int() - found.original.int()).abs().max() <= 1


def test_the_mask_ratio_can_be_chosen(runs: SmallRuns, clip: Path) -> None:
    found = load(str(runs.pretrained), device="cpu").reconstruct(clip, mask_ratio=0.5)
    assert (found.seen == 128).all(dim=1).float().mean() == pytest.approx(0.5, abs=0.02)


def test_a_network_without_a_head_says_to_fine_tune(runs: SmallRuns, clip: Path) -> None:
    with pytest.raises(
        UserError, match=r"without a classification head.*fine-tune it first: videomae2 finetune --init"
    ):
        load(str(runs.pretrained), device="cpu").predict(clip)


def test_a_network_without_a_decoder_cannot_reconstruct(runs: SmallRuns, clip: Path) -> None:
    with pytest.raises(UserError, match="has no decoder, so it cannot reconstruct"):
        load(str(runs.finetuned), device="cpu").reconstruct(clip)


@pytest.mark.parametrize("layout", ["released", "ours"])
def test_other_layouts_predict_the_same(
    runs: SmallRuns, clip: Path, tmp_path: Path, layout: Literal["released", "ours"]
) -> None:
    target = tmp_path / ("weights.pth" if layout == "released" else "weights.safetensors")
    convert(runs.finetuned, target, layout)
    assert load(str(target), device="cpu").predict(clip) == load(str(runs.finetuned), device="cpu").predict(
        clip
    )


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "plain.safetensors", build_classifier(MODEL, 3), MODEL, "classifier")
    assert load(str(tmp_path / "plain.safetensors"), device="cpu").class_names == ("0", "1", "2")


def test_a_file_that_is_no_video_is_one_line(runs: SmallRuns, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    model = load(str(runs.finetuned), device="cpu")
    for path in (tmp_path / "broken.mp4", tmp_path / "absent.mp4"):
        with pytest.raises(UserError) as caught:
            model.predict(path)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_other_frames_and_sizes_interpolate_the_positions(runs: SmallRuns, clip: Path) -> None:
    model = load(runs.finetuned, device="cpu", num_frames=4, size=48)
    assert model.grid.shape == (2, 6, 6)
    assert model.features(clip, tokens=True).shape == (72, 48)
    assert [each.name for each in model.predict(clip)] != []
    with pytest.raises(UserError, match="did you mean num_frames"):
        load(runs.finetuned, device="cpu", num_frame=4)


def test_a_file_that_does_not_say_which_network_it_is_can_be_told(tmp_path: Path) -> None:
    settings = replace(MODEL, width=40, num_heads=4)  # heads of 10 are nobody's habit
    torch.save(build_classifier(settings, 2).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(UserError, match=r"does not say which network it is.*name"):
        load(tmp_path / "plain.pth", device="cpu")
    told = {
        name: getattr(settings, name)
        for name in ("name", "width", "depth", "num_heads", "patch", "num_frames", "size")
    }
    assert load(tmp_path / "plain.pth", device="cpu", **told).grid.shape == (4, 4, 4)


def test_bf16_answers_almost_as_fp32(runs: SmallRuns, clip: Path) -> None:
    plain, half = (
        load(str(runs.finetuned), device="cpu", precision=precision) for precision in ("fp32", "bf16")
    )
    scores = [{each.label: each.score for each in model.predict(clip, top=50)} for model in (plain, half)]
    assert scores[1] == pytest.approx(scores[0], abs=0.02)
    assert scores[1] != scores[0]
    torch.testing.assert_close(half.features(clip), plain.features(clip), rtol=0.05, atol=0.05)
    assert half.features(clip, tokens=True).dtype == torch.float32
    drawn = [
        load(str(runs.pretrained), device="cpu", precision=each).reconstruct(clip, seed=3).error
        for each in ("fp32", "bf16")
    ]
    assert drawn[1] == pytest.approx(drawn[0], rel=0.02)


def test_a_bf16_module_computes_the_same_with_and_without_autocast(runs: SmallRuns, clip: Path) -> None:
    model = load(str(runs.finetuned), device="cpu", precision="bf16")
    frames = views_of(clip, model.settings, model.data)
    with torch.no_grad():
        bare = model.module(frames)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.module(frames), bare)


def test_a_precision_that_there_is_not_is_refused(runs: SmallRuns) -> None:
    with pytest.raises(UserError, match="expected precision fp32 or bf16, got 'fp16'"):
        load(str(runs.finetuned), precision="fp16")


def test_at_least_one_class_is_named(runs: SmallRuns, clip: Path) -> None:
    with pytest.raises(UserError, match="expected at least 1 class to name, got top=0"):
        load(str(runs.finetuned), device="cpu").predict(clip, top=0)


def test_a_model_prints_what_it_is(runs: SmallRuns) -> None:
    said = repr(load(str(runs.finetuned), device="cpu"))
    assert said == f"Model({runs.finetuned}: classifier vit_ti16, {load(runs.finetuned).grid}, 2 classes)"


def test_create_model_makes_a_classifier_or_an_autoencoder_from_a_seed() -> None:
    first, again, other = (create_model("vit_ti16", num_classes=3, seed=seed, **TINY) for seed in (0, 0, 1))
    assert isinstance(first, Classifier) and isinstance(again, Classifier) and isinstance(other, Classifier)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert isinstance(create_model("vit_ti16", decoder_width=24, decoder_heads=3, **TINY), Autoencoder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 0}, "depth: expected a whole number from 1 to 1000"),
        ({"depth": "2"}, "depth: expected a whole number"),
        ({"width": 10**9}, "width: expected"),
        ({"num_frames": -8}, "num_frames: expected"),
        ({"drop_path": float("nan")}, "drop_path: expected"),
        ({"drop_path": 1.5}, "drop_path: expected"),
        ({"positions": "sine"}, "positions: expected one of"),
        ({"num_classes": 10**9}, "num_classes: expected"),
        ({"num_classes": -1}, "num_classes: expected"),
        ({"seed": 2**80}, "seed: expected"),
    ],
)
def test_create_model_keeps_the_bounds_of_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        create_model("vit_ti16", **({"num_classes": 3} | changes))
    assert "\n" not in str(error.value)


def test_load_keeps_the_bounds_of_settings(runs: SmallRuns) -> None:
    changes: dict[str, Any]
    for changes in ({"num_frames": "8"}, {"size": 10**9}, {"num_frames": None}):
        with pytest.raises(UserError, match="expected a whole number from 1 to 16384"):
            load(runs.finetuned, device="cpu", **changes)


def test_create_model_refuses_what_is_no_setting() -> None:
    with pytest.raises(UserError, match="'num_frame' is no setting of a model; did you mean num_frames"):
        create_model("vit_ti16", num_classes=3, num_frame=8)
    with pytest.raises(UserError, match="there is no model 'vit_b14'"):
        create_model("vit_b14")
