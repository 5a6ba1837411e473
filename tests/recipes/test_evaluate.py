"""Evaluation: by manifest row, one decode a video, nothing dropped from the denominator."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.data.video.decode import VideoFile
from videomae2.errors import UserError
from videomae2.heads.classify import build_classifier
from videomae2.recipes.evaluate import run_evaluation
from videomae2.recipes.weights import read_classifier
from videomae2.settings import DataSettings, EvaluateSettings
from videomae2.weights import save_safetensors

from ..small_runs import DATA, MODEL, SmallRuns, write_classes, write_video


def settings(weights: Path, videos: Path, /, **changes: Any) -> EvaluateSettings:
    return replace(
        EvaluateSettings(str(weights), replace(DATA, val=str(videos)), device="cpu", precision="fp32"),
        **changes,
    )


@pytest.fixture
def constant(tmp_path: Path) -> Path:
    """A classifier that answers class 0 (left) whatever it is shown."""
    classifier = build_classifier(MODEL, 2)
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.bias.copy_(torch.tensor([5.0, 0.0]))
    path = tmp_path / "constant.safetensors"
    return save_safetensors(path, classifier, MODEL, "classifier", class_names=("left", "right"))


def test_videos_of_the_same_name_are_two_videos(constant: Path, tmp_path: Path) -> None:
    videos = write_classes(tmp_path / "videos", each=1)  # left/0.mp4 and right/0.mp4
    evaluation = run_evaluation(settings(constant, videos))
    assert (evaluation.accuracy.listed, evaluation.accuracy.top1) == (2, 0.5)
    assert evaluation.confusion.tolist() == [[1, 0], [1, 0]]


def test_a_broken_video_counts_as_wrong_and_is_named(constant: Path, tmp_path: Path) -> None:
    videos = write_classes(tmp_path / "videos", each=1)
    (videos / "left" / "broken.mp4").write_bytes(b"no video")
    evaluation = run_evaluation(settings(constant, videos, out=str(tmp_path / "out")))
    assert (evaluation.accuracy.evaluated, evaluation.accuracy.failed, evaluation.accuracy.listed) == (
        2,
        1,
        3,
    )
    assert evaluation.accuracy.top1 == pytest.approx(1 / 3)
    assert "2 evaluated, 1 failed, 3 listed" in str(evaluation)
    assert f"row 1, {videos}/left/broken.mp4, could not be read: not a video" in str(evaluation)
    lines = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [0, 1, 2]
    broken = next(line for line in lines if line["path"].endswith("broken.mp4"))
    assert broken["failed"] and "scores" not in broken


def test_files_of_an_evaluation(runs: SmallRuns, tmp_path: Path) -> None:
    evaluation = run_evaluation(settings(runs.finetuned, runs.videos, out=str(tmp_path / "out")))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    kept = summary.pop("settings")
    assert (kept["weights"], kept["data.val"], kept["match"]) == (
        str(runs.finetuned),
        str(runs.videos),
        "names",
    )
    assert summary == evaluation.summary()
    assert (summary["views"], summary["listed"], summary["top5"]) == ("2x3", 6, None)
    table = list(csv.DictReader((tmp_path / "out" / "per_class.csv").open()))
    assert [line["name"] for line in table] == ["left", "right"]
    assert sum(int(line["right"]) for line in table) == round(6 * summary["top1"])
    confusion = list(csv.reader((tmp_path / "out" / "confusion.csv").open()))
    assert confusion[0][1:] == ["left", "right"]
    scores = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert len(scores) == 6 and all(
        line["views"] == 6 and sum(line["scores"]) == pytest.approx(1, abs=1e-5) for line in scores
    )


def test_views_and_batches_do_not_change_the_scores(runs: SmallRuns) -> None:
    whole = run_evaluation(settings(runs.finetuned, runs.videos, batch_size=4))
    parts = run_evaluation(settings(runs.finetuned, runs.videos, views_per_forward=1))
    torch.testing.assert_close(whole.scores.scored()[1], parts.scores.scored()[1], rtol=1e-5, atol=1e-6)


def test_a_video_is_decoded_once_for_all_its_views(runs: SmallRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    original = VideoFile.__init__

    def counted(self: VideoFile, source: Any, *rest: Any, **more: Any) -> None:
        opened.append(source)
        original(self, source, *rest, **more)

    monkeypatch.setattr(VideoFile, "__init__", counted)
    run_evaluation(settings(runs.finetuned, runs.videos))
    assert len(opened) == 6


def test_averaged_weights_are_used_unless_told_otherwise(runs: SmallRuns) -> None:
    averaged, trained = (
        read_classifier(str(runs.finetuned)),
        read_classifier(str(runs.finetuned), use_ema=False),
    )
    assert not torch.equal(averaged.module.head.weight, trained.module.head.weight)


def test_classes_are_matched_by_name_where_a_folder_lacks_one(constant: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "right" / "0.mp4", 2)  # the folder alone would number right as 0
    evaluation = run_evaluation(settings(constant, tmp_path / "videos"))
    assert evaluation.confusion.tolist() == [[0, 0], [1, 0]]
    write_video(tmp_path / "videos" / "up" / "0.mp4", 2)
    with pytest.raises(
        UserError, match=r"expected one of the network's 2 classes \(left, right\), got the class 'up'"
    ):
        run_evaluation(settings(constant, tmp_path / "videos"))


def test_a_network_without_a_head_says_to_fine_tune(runs: SmallRuns) -> None:
    with pytest.raises(UserError, match=r"without a classification head.*videomae2 finetune --init"):
        run_evaluation(settings(runs.pretrained, runs.videos))


def test_other_sampling_than_in_training_is_said(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    run_evaluation(settings(runs.finetuned, runs.videos, data=replace(DATA, val=str(runs.videos), stride=2)))
    assert (
        "note: data.stride is 2 here, but was 1 when these weights were trained; --data.stride 1 repeats that"
        in capsys.readouterr().err
    )


def test_a_setting_left_at_its_default_follows_the_weights(
    runs: SmallRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = replace(DATA, val=str(runs.videos), stride=DataSettings().stride)
    followed = run_evaluation(settings(runs.finetuned, runs.videos, data=plain))
    assert (
        "note: data.stride is 1, as when these weights were trained; --no_as_trained takes 4"
        in capsys.readouterr().err
    )
    same = run_evaluation(settings(runs.finetuned, runs.videos))
    other = run_evaluation(settings(runs.finetuned, runs.videos, data=plain, as_trained=False))
    assert "data.stride is 4 here, but was 1" in capsys.readouterr().err
    (_, means), (_, expected), (_, otherwise) = (each.scores.scored() for each in (followed, same, other))
    assert torch.equal(means, expected)
    assert not torch.equal(means, otherwise)


@pytest.mark.parametrize(
    ("changes", "message"), [({"weights": ""}, "--weights"), ({"data": DATA}, r"--data\.val")]
)
def test_what_is_missing_is_named(runs: SmallRuns, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_evaluation(settings(runs.finetuned, runs.videos, **changes))


# ---- classes of the videos, and of the network


def named(tmp_path: Path, *names: str) -> Path:
    """A classifier with a head of these class names."""
    path = tmp_path / "named.safetensors"
    return save_safetensors(path, build_classifier(MODEL, len(names)), MODEL, "classifier", class_names=names)


def test_spaces_and_underscores_and_case_are_one_name(runs: SmallRuns, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(runs.videos / "left", videos / "air_drumming")
    shutil.copytree(runs.videos / "right", videos / "Abseiling")
    found = run_evaluation(settings(named(tmp_path, "abseiling", "air drumming"), videos))
    assert found.scores.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_made_up_names_are_matched_by_order_when_asked(runs: SmallRuns, tmp_path: Path) -> None:
    weights = named(tmp_path, "LABEL_0", "LABEL_1")
    with pytest.raises(UserError, match=r"does not say which of them is 'left'.* add --match order"):
        run_evaluation(settings(weights, runs.videos))
    found = run_evaluation(settings(weights, runs.videos, match="order"))
    assert found.scores.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_held_out_set_that_lacks_a_class_is_matched_by_name(runs: SmallRuns, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    shutil.copytree(runs.videos / "right", tmp_path / "videos" / "10")
    found = run_evaluation(settings(named(tmp_path, "2", "10", "30"), tmp_path / "videos"))
    assert found.scores.labels.tolist() == [1, 1, 1]
