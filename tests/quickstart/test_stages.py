"""The quickstart, shrunk to seconds: every stage runs for real, and what it promises is there."""

import json
from pathlib import Path

import pytest

from videomae2.cli import main as cli
from videomae2.engine.log import read_lines
from videomae2.quickstart import plan, story

ARMS = {"pretrained", "scratch", "shuffled", "pretrained, tested shuffled"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few videos and a few steps of the same plan."""
    for name, value in (
        ("UNLABELLED", 16),
        ("LABELLED", 32),
        ("HELD_OUT", 8),
        ("PRETRAINING_STEPS", 3),
        ("FINETUNING_STEPS", 2),
    ):
        monkeypatch.setattr(plan, name, value)


@pytest.mark.usefixtures("small")
def test_it_leaves_a_report_a_summary_and_every_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quickstart"
    assert cli.main(["quickstart", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "report.html")
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["top1"]) == ARMS
    assert summary["chance"] == 1 / 8
    assert summary["views"] == "3x1"
    assert summary["margin_over_scratch"] == pytest.approx(
        summary["top1"]["pretrained"] - summary["top1"]["scratch"], abs=1e-3
    )
    assert len(summary["prediction"]["top"]) == 3
    page = (out / "report.html").read_text()
    for said in (
        "fine-tuned after pre-training",
        "Pre-training loss",
        "Reconstruction of",
        "Confusion matrix",
        "Per class",
        "The network starts from random weights.",
        "So shuffled frames are worth 25 % at most",  # four of eight classes share an axis
    ):
        assert said in page
    assert page.count("data:image/png;base64,") >= 7
    assert read_lines(out / "pretrain" / "metrics.jsonl")[-1]["step"] == 3
    # again: every run is finished, so nothing is trained or drawn anew
    drawn = (out / "data" / "unlabelled" / "manifest.csv").stat().st_mtime_ns
    assert cli.main(["quickstart", "--out", str(out)]) == 0
    assert (out / "data" / "unlabelled" / "manifest.csv").stat().st_mtime_ns == drawn
    assert json.loads((out / "summary.json").read_text())["top1"] == summary["top1"]
    # another seed would mix its data with this one's
    assert cli.main(["quickstart", "--out", str(out), "--seed", "1"]) == 2
    assert "holds a quickstart with seed 0, not 1; give another --out" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_the_three_sets_share_no_video_and_hold_every_class(tmp_path: Path) -> None:
    from videomae2.data.tables.manifest import read_manifest
    from videomae2.quickstart.stages import Quickstart

    sets = {name: read_manifest(path) for name, path in Quickstart(tmp_path, 0).draw_data().items()}
    names = [Path(manifest.row(row).path).name for manifest in sets.values() for row in range(len(manifest))]
    assert len(set(names)) == len(names) == 16 + 32 + 8
    for manifest in (sets["labelled"], sets["held_out"]):
        assert set(manifest.labels().tolist()) == set(range(8))
        assert tuple(manifest.class_names) == plan.SPRITES.classes


def test_pretraining_starts_from_random_weights_as_the_report_says(tmp_path: Path) -> None:
    assert plan.pretraining(tmp_path / "m.csv", tmp_path / "a", 0).init == ""


def test_every_arm_has_its_words() -> None:
    assert set(story.ARMS) == ARMS


def test_the_arms_differ_in_their_start_and_their_frame_order_alone(tmp_path: Path) -> None:
    from videomae2.config import differences

    one = plan.finetuning(tmp_path / "m.csv", tmp_path / "a", 0, "pretrained")
    other = plan.finetuning(tmp_path / "m.csv", tmp_path / "b", 0, "untrained", "shuffled")
    assert {each.key for each in differences(one, other)} == {"init", "run.out", "data.frame_order"}
