"""Detection from boxes to weights, on sprites that move each its own way: trained, judged, resumed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.chance import torch_generator
from videomae2.data.sprites.draw import write_sprites
from videomae2.data.sprites.scene import SpriteSettings
from videomae2.engine.log import read_lines
from videomae2.errors import UserError
from videomae2.heads.spatial import build_detector
from videomae2.labels import Boxes
from videomae2.recipes.detect import Detecting, jittered, key_frame_feed, score_key_frames
from videomae2.recipes.train import run_task
from videomae2.recipes.weights import load_detector, read_classifier, read_detector
from videomae2.records import Batch
from videomae2.report.box_pictures import hardest_blocks
from videomae2.report.page import Note, Strips
from videomae2.settings import DetectData, DetectModel, DetectOptim, DetectSettings, SpatialHead

from ..engine.toys import same_tensors, without_time
from ..small_networks import CLIP
from ..small_runs import DATA, MODEL, OPTIM, RUN, SmallRuns, as_before_its_end

SPRITES = SpriteSettings(
    size=48, num_frames=12, objects=2, sizes=(0.3, 0.45), classes=("left", "right", "up")
)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key frames of six videos with two sprites each."""
    manifest = write_sprites(
        tmp_path_factory.mktemp("sprites"), num_videos=6, seed=1, settings=SPRITES, workers=1
    )
    return manifest.parent / "key_frames.csv"


def settings_of(boxes: Path, out: Path, **changes: Any) -> DetectSettings:
    kept: dict[str, Any] = {"train": str(boxes), "val": str(boxes), "test_size": 40, "box_jitter": (0.2, 0.1)}
    given = {name: getattr(DATA, name) for name in ("stride", "workers", "rand_augment", "erasing")}
    optim = replace(OPTIM, length=4, warmup=1, ema_decay=0.5, layer_decay=0.75)
    run = replace(RUN, out=str(out), checkpoint_every=2, evaluate_every=2, keep_last=9)
    settings = DetectSettings(
        DetectModel(**vars(replace(MODEL, drop_path=0.1))),
        DetectData(**kept, **given),
        SpatialHead(roi_size=3),
        DetectOptim(**vars(optim)),
        run,
    )
    return replace(settings, **changes)


@pytest.fixture(scope="module")
def trained(boxes: Path, runs: SmallRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that began from pre-trained weights."""
    out = tmp_path_factory.mktemp("detect") / "run"
    return run_task(settings_of(boxes, out, init=str(runs.pretrained)))


def test_it_trains_and_is_judged_by_frame_map(trained: Path) -> None:
    lines = read_lines(trained / "metrics.jsonl")
    judged = [line["evaluation"] for line in lines if "evaluation" in line]
    assert len(judged) == 2
    for values in judged:
        assert values["listed"] == values["evaluated"] == 6 and values["failed"] == 0
        assert values["box_recall"] == 1.0 and 0 <= values["frame_map"] <= 1 and "ema_frame_map" in values
    hard = json.loads((trained / "hardest.json").read_text())
    assert len(hard) == 6 and hard[0]["cost"] >= hard[-1]["cost"]
    assert {name for frame in hard for box in frame["truth"] for name in box["actions"]} <= set(
        SPRITES.classes
    )


def test_its_report_draws_the_key_frames_that_cost_most(trained: Path, tmp_path: Path) -> None:
    note, *figures = hardest_blocks(trained / "hardest.json")
    assert isinstance(note, Note) and note.title == "Hardest key frames"
    assert len(figures) == 6 and all(
        isinstance(each, Strips) and each.rows[0][1][0].startswith(b"\x89PNG") for each in figures
    )
    frames = json.loads((trained / "hardest.json").read_text())
    frames[0]["path"] = "gone.mp4"  # a video that is gone costs its picture and not the report
    (tmp_path / "some.json").write_text(json.dumps(frames))
    assert len(hardest_blocks(tmp_path / "some.json")) == 6
    assert hardest_blocks(tmp_path / "none.json") == []


def test_from_an_earlier_checkpoint_it_ends_with_the_same_bits(
    trained: Path, boxes: Path, runs: SmallRuns, tmp_path: Path
) -> None:
    again = as_before_its_end(trained, tmp_path / "run")
    shutil.rmtree(again / "checkpoints" / "step-4")
    run_task(settings_of(boxes, again, init=str(runs.pretrained)))
    assert same_tensors(trained, again)
    assert (trained / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    ours, theirs = (read_lines(run / "metrics.jsonl") for run in (again, trained))
    assert without_time(ours) == without_time(theirs)


def test_its_weights_are_read_by_name_and_keep_what_their_user_needs(trained: Path, runs: SmallRuns) -> None:
    found = read_detector(str(trained))
    assert found.report.complete and found.module.roi_size == 3
    assert found.checkpoint.kind == "detector" and found.checkpoint.class_names == ("left", "right", "up")
    assert found.checkpoint.metadata["detect"] == {"test_size": 40, "box_growth": [0.0, 0.0]}
    with pytest.raises(
        UserError, match=r"expected a detector, got .*, a classifier network without a head over boxes"
    ):
        read_detector(str(runs.finetuned))
    with pytest.raises(UserError, match="a detector network without a classification head"):
        read_classifier(str(trained))


def test_what_other_weights_bring(runs: SmallRuns, trained: Path) -> None:
    names = ("left", "right", "up")

    def fresh() -> Any:
        return build_detector(MODEL, 3, SpatialHead(roi_size=3), torch_generator(8))

    classifier = read_classifier(str(runs.finetuned))
    from_classifier = fresh()
    report = load_detector(from_classifier, str(runs.finetuned), names)
    assert torch.equal(from_classifier.token_norm.weight, classifier.module.fc_norm.weight)
    assert set(report.missing) == {"head.weight", "head.bias"}
    report = load_detector(fresh(), str(runs.pretrained), names)
    assert "token_norm.weight" in report.matched and set(report.missing) == {"head.weight", "head.bias"}
    assert not load_detector(fresh(), str(trained), names).missing
    other = load_detector(fresh(), str(trained), ("left", "right", "down"))
    assert set(other.missing) == {"head.weight", "head.bias"}


def test_evaluation_does_not_depend_on_how_key_frames_go_together(trained: Path, boxes: Path) -> None:
    found = read_detector(str(trained))
    names = found.checkpoint.class_names
    reports = []
    for batch in (1, 4):
        feed = key_frame_feed(settings_of(boxes, trained).data, found.settings, names, batch, "cpu")
        assert feed is not None
        scores = score_key_frames(found.module, feed, 3)
        reports.append(scores)
    for row, (xyxy, shares) in reports[0].boxes.items():
        assert (xyxy == reports[1].boxes[row][0]).all()
        assert abs(shares - reports[1].boxes[row][1]).max() < 1e-5


def test_key_frames_of_several_sizes_and_one_that_is_broken(
    trained: Path, boxes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(boxes.parent / "videos", folder)
    wide = write_sprites(
        tmp_path / "wide", num_videos=1, seed=3, settings=replace(SPRITES, size=64), workers=1
    )
    shutil.copy(wide.parent / "videos" / "000000.mp4", folder / "wide.mp4")
    (folder / "000001.mp4").write_bytes(b"no video")
    lines = boxes.read_text().splitlines()
    (tmp_path / "boxes.csv").write_text("\n".join([*lines, "videos/wide.mp4,6,4,4,60,60,left,0"]) + "\n")
    found = read_detector(str(trained))
    data = replace(settings_of(tmp_path / "boxes.csv", trained).data, test_size=0)
    feed = key_frame_feed(data, found.settings, found.checkpoint.class_names, 3, "cpu")
    assert feed is not None
    report = score_key_frames(found.module, feed, 3).report()
    assert (report.evaluated, report.failed, report.listed) == (6, 1, 7)
    assert report.recall == pytest.approx(11 / 13)  # the two boxes of the broken video are missed


def test_a_step_without_any_box_teaches_nothing(boxes: Path, tmp_path: Path) -> None:
    network = build_detector(MODEL, 3)
    task = Detecting(network, settings_of(boxes, tmp_path))
    none = torch.zeros(0, dtype=torch.int64)
    target = Boxes(xyxy=torch.zeros(0, 4), counts=torch.zeros(2, dtype=torch.int64), labels=torch.zeros(0, 3))
    frames = (CLIP * 255).to(torch.uint8)
    batch = Batch(frames, none.new_zeros(2), none.new_zeros(2), target)
    output = task.step(network, batch, 0)
    output.loss.backward()
    assert float(output.loss.detach()) == 0 and network.head.weight.grad is not None


@pytest.mark.parametrize("loss", ["focal", "balanced"])
def test_the_other_losses_train(loss: str, boxes: Path, tmp_path: Path) -> None:
    settings = settings_of(boxes, tmp_path / "run", loss=loss)
    optim = replace(settings.optim, length=1, warmup=0, ema_decay=0.0)
    head = SpatialHead(pooling="attentive", context=True)
    data = replace(settings.data, val="")
    run_task(replace(settings, optim=optim, head=head, data=data))
    found = read_detector(str(tmp_path / "run"))
    assert found.report.complete and found.module.context and found.module.time_score is not None


def test_jitter_moves_edges_within_its_shares_and_the_picture() -> None:
    given = torch.tensor([[10.0, 20, 30, 60]]).repeat(500, 1)
    torch.manual_seed(0)
    moved = jittered(given, (0.2, 0.1), (62, 100))
    low, high = moved.amin(0).tolist(), moved.amax(0).tolist()
    assert 6 <= low[0] < 6.2 and 11.8 < high[0] <= 12 and 28 <= low[2] < 28.2 and 33.8 < high[2] <= 34
    assert 16 <= low[1] < 16.2 and high[3] == 62
    assert jittered(given, (0.0, 0.0), (62, 100)) is given


def test_learning_rates_fall_by_layer_from_the_head_down() -> None:
    from videomae2.engine.optim import parameter_groups

    network = build_detector(MODEL, 3)
    scales = {
        name: group["lr_scale"] for group in parameter_groups(network, 0.05, 0.9) for name in group["names"]
    }
    assert scales["head.weight"] == scales["token_norm.weight"] == 1
    assert scales["encoder.blocks.1.attn.qkv.weight"] == pytest.approx(0.9)
    assert scales["encoder.patch_embed.proj.weight"] == pytest.approx(0.9**3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "dense"}, "expected data.sampling key, got dense"),
        ({"rand_augment": "rand-m7-n4"}, "expected no data.rand_augment and no data.erasing"),
        ({"train": "nowhere.csv"}, "no file of boxes at nowhere.csv"),
        ({"root": "/nowhere"}, "cannot be listed|no video|none of"),
    ],
)
def test_settings_that_cannot_work(
    changes: dict[str, Any], message: str, boxes: Path, tmp_path: Path
) -> None:
    settings = settings_of(boxes, tmp_path / "run")
    with pytest.raises(UserError, match=message):
        run_task(replace(settings, data=replace(settings.data, **changes)))
    assert not (tmp_path / "run").exists()
