"""Temporal detection from features: it learns, resumes bit for bit, is read by name, says what is wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videomae2.api.jobs import train
from videomae2.cli.main import main
from videomae2.config import to_toml
from videomae2.data.features import FeatureFiles, FeatureTime, SequenceRows
from videomae2.data.tables.annotations import AnnotatedVideo, Segment
from videomae2.engine.log import read_lines
from videomae2.errors import UserError
from videomae2.recipes.detections import THRESHOLDS, measure_run, read_localizer
from videomae2.recipes.localize import Localizing
from videomae2.recipes.weights import read_trained
from videomae2.recipes.window_probe import probe_windows
from videomae2.settings import (
    LocalizeData,
    LocalizeModel,
    LocalizeOptim,
    LocalizeRun,
    LocalizeSettings,
)

from ..engine.toys import same_tensors, without_time

MODEL = LocalizeModel(
    width=16, num_heads=2, window=5, levels=3, embed_layers=1, stem_blocks=1, head_layers=2, max_length=48,
    first_normalizer=10.0,
)  # fmt: skip
NAMES = ("clap", "jump")


@pytest.fixture(scope="module")
def untrimmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve "videos" of noise in which each class raises its own channels; the last four are for tests."""
    folder = tmp_path_factory.mktemp("untrimmed")
    random = np.random.default_rng(0)
    database: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for number in range(12):
        length = int(random.integers(30, 45))
        values = random.normal(0, 0.3, (length, 6))
        annotations = []
        for place in (3, 18):
            label, size = int(random.integers(2)), int(random.integers(4, 11))
            values[place : place + size, 3 * label : 3 * label + 3] += 1
            # Windows of two frames, every two frames at 4 fps: feature n is at (2 n + 1) / 4 s.
            ends = [(2 * each + 1) / 4 - 0.25 for each in (place, place + size)]
            annotations.append({"segment": ends, "label": NAMES[label]})
        subset = "train" if number < 8 else "test"
        name = f"v{number}"
        database[name] = {"subset": subset, "duration": length / 2, "fps": 4.0, "annotations": annotations}
        arrays[name] = values.astype(np.float16)
    np.savez(folder / "features.npz", **arrays)
    (folder / "gt.json").write_text(json.dumps({"database": database}, indent=1))
    return folder


def settings_of(untrimmed: Path, out: Path, **optim: Any) -> LocalizeSettings:
    gt = str(untrimmed / "gt.json")
    data = LocalizeData(
        train=gt,
        val=gt,
        train_subset="train",
        val_subset="test",
        features=str(untrimmed / "features.npz"),
        feature_stride=2.0,
        feature_window=2.0,
    )
    plan = LocalizeOptim(base_lr=0.5, length=80, warmup=8, ema_decay=0.9, batch_size=4)
    run = LocalizeRun(out=str(out), device="cpu", tensorboard=False, log_every=1, checkpoint_every=40)
    return LocalizeSettings(model=MODEL, data=data, optim=replace(plan, **optim), run=run)


@pytest.fixture(scope="module")
def trained(untrimmed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; do not write into it."""
    return train(settings_of(untrimmed, tmp_path_factory.mktemp("localize") / "run"))


def test_it_finds_the_segments(trained: Path) -> None:
    lines = read_lines(trained / "metrics.jsonl")
    last = [line["evaluation"] for line in lines if "evaluation" in line][-1]
    assert last["mAP"] > 0.5 and last["ema_mAP"] > 0.5
    assert last["mAP@0.30"] >= last["mAP@0.70"]
    assert (last["evaluated"], last["failed"], last["listed"]) == (4, 0, 4)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_its_report_has_every_class_and_the_kinds_of_false_positives(trained: Path) -> None:
    page = (trained / "report.html").read_text()
    assert "Temporal detection" in page and "Average precision of each class" in page
    assert all(name in page for name in (*NAMES, "localisation", "background"))


def test_its_weights_are_read_by_name(
    trained: Path, untrimmed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, checkpoint = read_localizer(trained)
    assert checkpoint.class_names == NAMES and network.model == MODEL
    assert checkpoint.metadata["features"]["stride"] == 2.0
    assert main(["weights", "show", str(trained)]) == 0
    assert "temporal detector of width 16 and 3 levels on 6 values, 2 classes" in capsys.readouterr().out
    found, _, names = measure_run(trained, settings_of(untrimmed, trained))
    last = [line["evaluation"] for line in read_lines(trained / "metrics.jsonl") if "evaluation" in line][-1]
    assert found.average == pytest.approx(last["ema_mAP"]) and names == NAMES
    with pytest.raises(
        UserError, match=r"expected a network that sees video, got .* a temporal detector of width"
    ):
        read_trained(str(trained))


def test_interrupted_it_ends_with_the_same_bits(
    untrimmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = LocalizeRun(out="", device="cpu", tensorboard=False, log_every=1, checkpoint_every=3)
    settings = replace(settings_of(untrimmed, tmp_path, length=8, warmup=1), run=run)
    quiet, broken = (
        replace(settings, run=replace(run, out=str(tmp_path / name))) for name in ("quiet", "broken")
    )
    train(quiet)
    step = Localizing.step

    def fail(self: Localizing, network: Any, batch: Any, number: int) -> Any:
        if number == 5:
            raise RuntimeError("a cable was pulled")
        return step(self, network, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Localizing, "step", fail)
        with pytest.raises(RuntimeError, match="cable"):
            train(broken)
    train(broken)
    assert same_tensors(tmp_path / "quiet", tmp_path / "broken")
    names = ("model.safetensors", "model_without_ema.safetensors")
    assert all((tmp_path / "quiet" / n).read_bytes() == (tmp_path / "broken" / n).read_bytes() for n in names)
    logs = [without_time(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("quiet", "broken")]
    assert logs[0] == logs[1]


def test_a_video_without_features_ends_training_but_only_fails_in_an_evaluation(
    untrimmed: Path, tmp_path: Path
) -> None:
    arrays = dict(np.load(untrimmed / "features.npz"))
    np.savez(tmp_path / "few.npz", **{name: values for name, values in arrays.items() if name != "v9"})
    settings = settings_of(untrimmed, tmp_path / "run", length=1, warmup=0)
    settings = replace(settings, data=replace(settings.data, features=str(tmp_path / "few.npz")))
    train(settings)
    last = read_lines(tmp_path / "run" / "metrics.jsonl")[-1]["evaluation"]
    assert (last["evaluated"], last["failed"], last["listed"]) == (3, 1, 4)
    del arrays["v3"]
    np.savez(tmp_path / "few.npz", **arrays)
    with pytest.raises(
        UserError, match=r"1 of 8 annotated videos have no features: [^()]*few\.npz has no features of 'v3'"
    ):
        train(replace(settings, run=replace(settings.run, out=str(tmp_path / "other"))))
    assert not (tmp_path / "other").exists()


def test_one_class_with_scores_of_whole_videos(untrimmed: Path, tmp_path: Path) -> None:
    database = json.loads((untrimmed / "gt.json").read_text())["database"]
    # The classifier knows the class of each video's first segment, and is unsure of others.
    scores = {
        name: [0.9 if row["annotations"][0]["label"] == label else 0.1 for label in NAMES]
        for name, row in database.items()
    }
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    settings = settings_of(untrimmed, tmp_path / "run")
    data = replace(settings.data, one_class=True, video_scores=str(tmp_path / "scores.json"), resize=40)
    folder = train(replace(settings, data=data))
    _, checkpoint = read_localizer(folder)
    assert checkpoint.class_names == ("action",)
    found, _, names = measure_run(folder, replace(settings, data=data))
    assert names == NAMES and found.average > 0.3
    (tmp_path / "scores.json").write_text(json.dumps({name: [1.0] for name in scores}))
    with pytest.raises(UserError, match=r"scores\.json, 'v0': expected 2 scores, one a class, got 1"):
        measure_run(folder, replace(settings, data=data))


def test_crops_keep_segments_at_their_features(untrimmed: Path) -> None:
    settings = settings_of(untrimmed, untrimmed)
    files = FeatureFiles(replace(settings.data, crop=(0.3, 0.6)))
    video = AnnotatedVideo("v0", (Segment(2.0, 5.0, "clap", 1), Segment(12.0, 14.0, "jump", 2)), 20.0, 4.0)
    rows = SequenceRows(files, [video], {"clap": 0, "jump": 1}, 48, seed=3)
    whole, target = rows.whole(0)
    positions = whole.time.to_features(target.seconds)
    assert positions.tolist() == [[3.5, 9.5], [23.5, 27.5]]
    sizes = set()
    for epoch in range(20):
        part, left = rows.cropped(epoch, 0)
        start = int(part.time.first / part.time.stride)
        sizes.add(len(part.values))
        assert torch.equal(part.values, whole.values[start : start + len(part.values)])
        assert len(left.seconds) > 0 and left.labels is not None
        own = part.time.to_features(left.seconds)
        assert bool((own >= -1e-4).all()) and bool((own <= len(part.values) + 1e-4).all())
        for (begin, end), label in zip((own + start).tolist(), left.labels.tolist(), strict=True):
            full = positions[label]
            assert begin >= full[0] - 1e-4 and end <= full[1] + 1e-4
            assert end - begin >= 0.5 * float(full[1] - full[0]) - 1e-4
        again, _ = rows.cropped(epoch, 0)
        assert again.time == part.time
    assert len(sizes) > 3


def test_the_time_of_features() -> None:
    time = FeatureTime(30.0, 16.0, 4.0)
    seconds = torch.tensor([[0.0, 8 / 30]])
    assert time.to_features(seconds).tolist() == [[-2.0, pytest.approx(0.0, abs=1e-6)]]
    assert torch.allclose(time.to_seconds(time.to_features(seconds)), seconds, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.train": ""}, "expected training annotations, got none; name a JSON or CSV with --data.train"),
        ({"data.features": "nowhere"}, "expected features, got 'nowhere', which is not there"),
        (
            {"data.feature_stride": 0.0},
            "--data.feature_stride 0 and --data.feature_window 2; the files do not say",
        ),
        (
            {"data.val_subset": "tset"},
            "expected subset 'tset' in .*, got test, train; name one of these, or none",
        ),
        ({"data.transform": "sqrt"}, "expected no value below 0 for data.transform sqrt, got one in v0"),
        (
            {"model.window": 4},
            "expected odd numbers of features for model.window and model.kernel, got 4 and 3; try 5",
        ),
        ({"model.num_heads": 3}, "expected model.width to be divisible by model.num_heads, got 16 and 3"),
        (
            {"model.max_length": 49},
            "expected model.max_length divisible by 4, since 3 levels halve it, got 49; try 52",
        ),
        ({"data.one_class": True}, "expected scores of whole videos for a class-agnostic detector, got ''"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_no_run(
    untrimmed: Path, tmp_path: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.toml"
    page.write_text(to_toml(settings_of(untrimmed, tmp_path / "run")))
    options = [
        word
        for key, value in change.items()
        for word in (f"--{key}", str(value).lower() if value is True else str(value))
    ]
    assert main(["localize-train", str(page), *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


def test_damaged_features_are_told_by_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 3), dtype=np.float32))
    np.save(tmp_path / "b.npy", np.zeros(5, dtype=np.float32))
    np.save(tmp_path / "c.npy", np.full((5, 3), np.nan, dtype=np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(whole[:-20])
    files = FeatureFiles(
        LocalizeData(features=str(tmp_path), feature_stride=4.0, feature_window=16.0, fps=8.0)
    )
    assert files.read(AnnotatedVideo("a")).duration == (4 * 4 + 16) / 8
    for name, message in (
        ("b", r"expected .*b\.npy as numbers \[features, values\], got float32\[5\]"),
        ("c", r"expected finite values in .*c\.npy, got NaN or infinity"),
        ("d", r"d could not be read \(.*\); is the file cut off\?"),
        ("e", r"has no e as \.safetensors, \.npy, \.npz$"),
    ):
        with pytest.raises(UserError, match=message):
            files.read(AnnotatedVideo(name))
    assert THRESHOLDS.keys() == {"thumos14", "activitynet"}


def test_windows_are_told_by_their_features(
    untrimmed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(untrimmed, tmp_path / "run")
    found = probe_windows(settings)
    assert list(found.by_class) == ["background", *NAMES]
    assert found.linear > 0.85 and found.neighbours > 0.85
    # Features of other videos say nothing about these.
    arrays = dict(np.load(untrimmed / "features.npz"))
    random = np.random.default_rng(1)
    np.savez(
        tmp_path / "noise.npz", **{name: random.normal(size=each.shape) for name, each in arrays.items()}
    )
    noise = probe_windows(
        replace(settings, data=replace(settings.data, features=str(tmp_path / "noise.npz")))
    )
    assert noise.linear < 0.55 and noise.neighbours < 0.55
    page = tmp_path / "page.toml"
    page.write_text(to_toml(settings))
    assert main(["features-check", str(page)]) == 0
    assert "mean accuracy over 3 classes with background" in capsys.readouterr().out
    assert main(["features-check", str(page), "--data.val", ""]) == 2
    assert "expected annotations to learn from and others to tell" in capsys.readouterr().err
