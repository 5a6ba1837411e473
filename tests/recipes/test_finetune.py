"""Fine-tuning: targets, initial weights, classes, and averaged weights that are evaluated and saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from videomae2 import chance
from videomae2.engine.device import seeded
from videomae2.engine.log import read_lines
from videomae2.errors import UserError
from videomae2.heads.classify import build_classifier
from videomae2.labels import Classes
from videomae2.recipes.evaluate import run_evaluation
from videomae2.recipes.finetune import Finetuning, neighbours_wanted
from videomae2.recipes.train import run_task
from videomae2.recipes.weights import load_classifier, read_weights
from videomae2.records import Batch
from videomae2.settings import EvaluateSettings
from videomae2.weights import read_checkpoint, save_safetensors

from ..small_runs import DATA, MODEL, SmallRuns, finetune_settings, write_video

CPU = torch.device("cpu")


def batch() -> Batch[Classes]:
    frames = torch.randint(0, 256, (4, 8, 3, 32, 32), dtype=torch.uint8, generator=chance.torch_generator(0))
    return Batch(
        frames, torch.arange(4), torch.zeros(4, dtype=torch.int64), Classes(torch.tensor([0, 1, 2, 0]))
    )


def task(tmp_path: Path, **changes: Any) -> Finetuning:
    return Finetuning(build_classifier(MODEL, 3), finetune_settings(tmp_path, tmp_path, **changes))


def test_without_mixing_frames_stay_bytes_and_labels_are_smoothed(tmp_path: Path) -> None:
    finetuning, clips = task(tmp_path, mixup=0.0, cutmix=0.0, label_smoothing=0.3), batch()
    frames, targets = finetuning.mix(clips)
    assert frames is clips.frames
    torch.testing.assert_close(targets[1], torch.tensor([0.1, 0.8, 0.1]))
    expected = torch.nn.functional.cross_entropy(
        finetuning.network(frames), clips.target.index, label_smoothing=0.3
    )
    torch.testing.assert_close(finetuning.step(finetuning.network, clips, 0).loss, expected)


def test_mixing_follows_from_the_place_in_the_epoch_and_from_nothing_else(tmp_path: Path) -> None:
    finetuning, clips = task(tmp_path), batch()

    def mixed(seed: int, **place: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with seeded(seed, CPU):
            return finetuning.mix(replace(clips, **place))

    first, again = mixed(1), mixed(2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], mixed(1, place=2)[0])
    assert not torch.equal(first[0], mixed(1, epoch=1)[0])
    assert first[0].is_floating_point() and 0 <= float(first[0].min()) <= float(first[0].max()) <= 1
    torch.testing.assert_close(first[1].sum(1), torch.ones(4))


def test_partners_that_another_rank_has_are_wanted_by_both() -> None:
    """Three ranks of three videos: 2 and 3 are a pair of two ranks; 4 and 5 of one; 8 has no partner."""
    wanted = [neighbours_wanted(3 * rank, 3, rank, 3) for rank in range(3)]
    assert wanted == [(False, True), (True, False), (False, False)]
    assert neighbours_wanted(3, 3, 0, 1) == (False, False), "alone there is nobody to ask"


def test_a_run_saves_named_classes_and_evaluates_the_average(runs: SmallRuns) -> None:
    checkpoint = read_checkpoint(runs.finetuned)
    assert (checkpoint.kind, checkpoint.num_classes, checkpoint.class_names) == (
        "classifier",
        2,
        ("left", "right"),
    )
    averaged = load_file(runs.finetuned / "model.safetensors")
    trained = load_file(runs.finetuned / "model_without_ema.safetensors")
    assert not torch.equal(averaged["head.weight"], trained["head.weight"])
    last = read_lines(runs.finetuned / "metrics.jsonl")[-1]["evaluation"]
    assert {"top1", "mean_class", "failed", "listed", "ema_top1"} <= set(last)
    assert "top5" not in last
    assert (last["listed"], last["failed"]) == (6, 0)


def test_pretrained_weights_give_the_encoder_and_nothing_else(runs: SmallRuns) -> None:
    classifier = build_classifier(MODEL, 2)
    fresh = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    report = load_classifier(classifier, str(runs.pretrained), 2)
    source = load_file(runs.pretrained / "model.safetensors")
    for name, tensor in classifier.state_dict().items():
        expected = source[name] if name.startswith("encoder.") else fresh[name]
        assert torch.equal(tensor, expected), name
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert all(
        name.startswith(("decoder.", "encoder_to_decoder", "mask_token", "encoder.norm"))
        for name in report.unexpected
    )


def test_a_head_of_the_same_classes_is_kept_and_of_others_dropped_and_said(runs: SmallRuns) -> None:
    source = load_file(runs.finetuned / "model.safetensors")
    same, more, renamed = (build_classifier(MODEL, classes) for classes in (2, 3, 2))
    assert load_classifier(same, str(runs.finetuned), 2, ("left", "right")).complete
    assert torch.equal(same.head.weight, source["head.weight"])
    report = load_classifier(more, str(runs.finetuned), 3)
    assert "its head has 2 classes: dropped, a fresh one of 3 is trained" in str(report)
    assert torch.equal(more.fc_norm.weight, source["fc_norm.weight"])
    report = load_classifier(renamed, str(runs.finetuned), 2, ("up", "down"))
    assert "its head has other classes: dropped" in str(report)
    assert not torch.equal(renamed.head.weight, source["head.weight"])


def test_a_label_map_slices_a_larger_head(tmp_path: Path) -> None:
    large = build_classifier(MODEL, 4, generator=chance.torch_generator(5))
    save_safetensors(tmp_path / "large.safetensors", large, MODEL, "classifier")
    (tmp_path / "map.json").write_text("[3, 1]")
    small = build_classifier(MODEL, 2)
    load_classifier(small, str(tmp_path / "large.safetensors"), 2, (), str(tmp_path / "map.json"))
    assert torch.equal(small.head.weight, large.head.weight[[3, 1]])


def test_another_architecture_is_refused_and_nothing_is_written(runs: SmallRuns, tmp_path: Path) -> None:
    settings = finetune_settings(runs.videos, tmp_path / "run", str(runs.pretrained))
    with pytest.raises(UserError, match=r"expected model.width 48, as in the weights .*, got 96"):
        run_task(replace(settings, model=replace(settings.model, width=96)))
    assert not (tmp_path / "run").exists()


def test_labels_are_needed_and_must_fit(runs: SmallRuns, tmp_path: Path) -> None:
    unlabelled = tmp_path / "videos"
    write_video(unlabelled / "a.mp4", 1)
    with pytest.raises(UserError, match=r"have no label.*add a label column"):
        run_task(finetune_settings(unlabelled, tmp_path / "run"))
    with pytest.raises(UserError, match=r"num_classes is 1, got 1 \(row 3, "):
        run_task(finetune_settings(runs.videos, tmp_path / "run", num_classes=1))
    assert not (tmp_path / "run").exists()


def test_more_classes_than_the_manifest_shows_can_be_asked_for(runs: SmallRuns, tmp_path: Path) -> None:
    settings = finetune_settings(runs.videos, tmp_path / "run", num_classes=5)
    run_task(settings)
    assert read_checkpoint(tmp_path / "run").num_classes == 5
    last = read_lines(tmp_path / "run" / "metrics.jsonl")[-1]["evaluation"]
    assert last["top5"] == 1.0


def test_a_held_out_video_that_cannot_be_read_is_named_once(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    write_video(videos / "left" / "0.mp4", -2)
    write_video(videos / "right" / "0.mp4", 2)
    (videos / "right" / "1.mp4").write_bytes(b"no video")
    settings = finetune_settings(runs.videos, tmp_path / "run")
    settings = replace(
        settings, data=replace(settings.data, val=str(videos)), run=replace(settings.run, evaluate_every=1)
    )
    run_task(settings)
    said = capsys.readouterr().err
    assert said.count("could not be read and counts as wrong") == 1
    assert f"held-out row 2, {videos}/right/1.mp4, could not be read" in said


def numbered(path: Path, videos: Path, first: int) -> Path:
    """A list of the videos whose class numbers count from `first`."""
    classes = enumerate(("left", "right"), first)
    rows = [f"{videos}/{name}/{n}.mp4 {label}\n" for label, name in classes for n in range(3)]
    path.write_text("".join(rows))
    return path


def test_labels_that_count_from_one_are_remembered_with_the_weights(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from_one, from_zero = (numbered(tmp_path / f"from_{n}.txt", runs.videos, n) for n in (1, 0))
    plain = finetune_settings(from_one, tmp_path / "run")
    settings = replace(plain, data=replace(plain.data, first_label=1))
    run_task(settings)
    found = read_weights(str(tmp_path / "run"))
    assert (found.num_classes, found.metadata["data"]["first_label"]) == (2, 1)
    data = replace(DATA, val=str(from_one))
    evaluated = EvaluateSettings(str(tmp_path / "run"), data, device="cpu", precision="fp32")
    assert run_evaluation(evaluated).scores.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert "data.first_label is 1, as when these weights were trained" in capsys.readouterr().err
    other = replace(evaluated, data=replace(data, val=str(from_zero)))
    with pytest.raises(UserError, match=r"expected labels from 1 on, since data.first_label is 1, got 0"):
        run_evaluation(other)
    named = replace(evaluated, data=replace(data, val=str(runs.videos)))
    assert run_evaluation(named).scores.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_first_label_of_names_is_refused(runs: SmallRuns, tmp_path: Path) -> None:
    plain = finetune_settings(runs.videos, tmp_path / "run")
    with pytest.raises(UserError, match=r"expected labels that are numbers.* got names such as 'left'"):
        run_task(replace(plain, data=replace(plain.data, first_label=1)))
    assert not (tmp_path / "run").exists()


def test_weights_say_where_class_names_came_from(runs: SmallRuns) -> None:
    assert read_weights(str(runs.finetuned)).names_origin == "folder"


@pytest.mark.parametrize("named", [True, False])
def test_one_class_is_nothing_to_train_on(named: bool, runs: SmallRuns, tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    rows = [f"{runs.videos}/left/{number}.mp4,{'jump' if named else 3}\n" for number in range(3)]
    path.write_text("path,label\n" + "".join(rows))
    plain = finetune_settings(path, tmp_path / "run")
    only = "'jump'" if named else "3"
    with pytest.raises(
        UserError, match=f"expected training videos of at least 2 classes, got 3 of class {only}"
    ):
        run_task(replace(plain, data=replace(plain.data, val=""), num_classes=0 if named else 9))
    assert not (tmp_path / "run").exists()


def test_held_out_videos_without_a_single_score_are_an_error(runs: SmallRuns, tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "0.mp4").write_bytes(b"no video")
    plain = finetune_settings(runs.videos, tmp_path / "run")
    with pytest.raises(UserError, match=r"expected scores of 2 held-out videos, got none: .*0.mp4: not"):
        run_task(replace(plain, data=replace(plain.data, val=str(tmp_path / "val"))))
