"""The report of an evaluation: tables, the confusion matrix, and the videos that could not be read."""

from dataclasses import replace
from pathlib import Path

from videomae2.api.jobs import evaluate
from videomae2.metrics.accuracy import ClassScore
from videomae2.report.page import Table
from videomae2.report.training import class_table, evaluation_blocks, write_evaluation_report
from videomae2.settings import EvaluateSettings

from ..small_runs import DATA, SmallRuns


def test_an_evaluation_report_shows_tables_and_failures(runs: SmallRuns, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("left", "right"):
        (videos / name).symlink_to(runs.videos / name)
    manifest = tmp_path / "videos.csv"
    manifest.write_text("path,label\nvideos/left/0.mp4,0\nvideos/right/0.mp4,1\nvideos/none.mp4,1\n")
    settings = EvaluateSettings(
        str(runs.finetuned), replace(DATA, val=str(manifest)), device="cpu", out=str(tmp_path / "out")
    )
    evaluation = evaluate(settings)
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    failed, left = "Failed, counted as wrong: 1 video<", '<td class="text">left</td>'
    for expected in ("Confusion matrix", "Per class", failed, "none.mp4", left):
        assert expected in html
    assert html == write_evaluation_report(evaluation, tmp_path / "again").read_text(encoding="utf-8")
    assert not any(block.folded for block in evaluation_blocks(evaluation) if isinstance(block, Table))
    assert class_table(evaluation.classes, evaluation.class_names, folded=True).folded


def test_classes_without_videos_have_no_accuracy() -> None:
    classes = [ClassScore(0, 4, 1, 3, 4), ClassScore(1, 0, 0, 0, 0), ClassScore(2, 2, 0, 1, None)]
    assert class_table(classes, ["a", "b", "c"]).rows == [
        ["a", "4", "1", "3", "75.0 %", "100.0 %"],
        ["b", "0", "0", "0", "n/a", "n/a"],
        ["c", "2", "0", "1", "50.0 %", "n/a"],
    ]
