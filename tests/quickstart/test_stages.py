"""The quickstart, shrunk to seconds: every stage runs for real, and what it promises is there."""

import json
import re
from pathlib import Path

import pytest

from videomae2.cli import main as cli
from videomae2.engine.log import read_lines
from videomae2.quickstart import plan, story

ARMS = {"pretrained", "scratch", "shuffled", "pretrained, tested shuffled"}


def test_it_leaves_a_summary_and_every_run(quickstart: Path) -> None:
    summary = json.loads((quickstart / "summary.json").read_text())
    assert set(summary["top1"]) == set(summary["interval95"]) == ARMS
    assert (summary["chance"], summary["unordered_bound"]) == (1 / 8, 1 / 4)
    assert summary["views"] == "3x1"
    assert summary["margin_over_scratch"] == pytest.approx(
        summary["top1"]["pretrained"] - summary["top1"]["scratch"], abs=1e-3
    )
    for name, share in summary["top1"].items():
        low, high = summary["interval95"][name]
        assert 0 <= low <= share <= high <= 1
    assert len(summary["prediction"]["top"]) == 3
    assert summary["predictions"][0] == summary["prediction"] and len(summary["predictions"]) == 6
    stages = {name: value for name, value in summary["seconds"].items() if name != "total"}
    assert summary["seconds"]["total"] == pytest.approx(sum(stages.values()), abs=1)
    assert read_lines(quickstart / "pretrain" / "metrics.jsonl")[-1]["step"] == 3


def test_the_report_shows_every_arm_six_predictions_and_leads_to_every_other_report(quickstart: Path) -> None:
    page = (quickstart / "report.html").read_text("utf-8")
    for title in ("Accuracy", "Predictions", "Pre-training loss", "Reconstruction of", "Confusion matrix"):
        assert title in page
    marks = re.findall(r'<span class="mark (right|wrong)">([✓✗])</span>', page)
    truths = [each["right"] for each in json.loads((quickstart / "summary.json").read_text())["predictions"]]
    assert marks == [("right", "✓") if right else ("wrong", "✗") for right in truths] and len(marks) == 6
    linked = re.findall(r'<a href="([^"]+)">', page)
    assert len(linked) == 1 + 3 + 4  # pre-training, three trained arms, four evaluations
    for address in linked:
        assert (quickstart / address).is_file(), address
    words = re.findall(r'aria-label="([^"]*)"', page)
    assert words[0].startswith("pre-trained, then fine-tuned: ") and "interval" in words[0]
    assert words[0].endswith("chance: 12.5 %; ideal observer of unordered frames: 25.0 %")
    assert all(re.search(r"\d", each) for each in words if not each.startswith(("right", "wrong")))


def test_again_nothing_is_trained_or_drawn_anew_and_no_time_is_lost(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = (quickstart / "data" / "unlabelled" / "manifest.csv").stat().st_mtime_ns
    before = json.loads((quickstart / "summary.json").read_text())
    assert cli.main(["quickstart", "--out", str(quickstart)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(quickstart / "report.html")
    assert (quickstart / "data" / "unlabelled" / "manifest.csv").stat().st_mtime_ns == drawn
    again = json.loads((quickstart / "summary.json").read_text())
    assert again["top1"] == before["top1"]
    assert all(again["seconds"][name] >= seconds for name, seconds in before["seconds"].items())
    # another seed would mix its data with this one's
    assert cli.main(["quickstart", "--out", str(quickstart), "--seed", "1"]) == 2
    assert "holds a quickstart with seed 0, not 1; give another --out" in capsys.readouterr().err


def test_the_three_sets_share_no_video_and_hold_every_class(quickstart: Path) -> None:
    from videomae2.data.tables.manifest import read_manifest

    sets = {
        name: read_manifest(quickstart / "data" / name / "manifest.csv")
        for name in ("unlabelled", "labelled", "held_out")
    }
    names = [Path(manifest.row(row).path).name for manifest in sets.values() for row in range(len(manifest))]
    assert len(set(names)) == len(names) == 16 + 32 + 8
    for name in ("labelled", "held_out"):
        assert set(sets[name].labels().tolist()) == set(range(8))
        assert tuple(sets[name].class_names) == plan.SPRITES.classes


def test_every_arm_has_its_words() -> None:
    assert set(story.ARMS) == ARMS
