"""Reports: one HTML file with everything inside, made from what lies in a run's folder."""

import base64
import json
import re
import zlib
from dataclasses import replace

import pytest
import torch

from videomae2.api.jobs import evaluate
from videomae2.errors import UserError
from videomae2.report import charts
from videomae2.report.evaluation import evaluation_blocks, write_evaluation_report
from videomae2.report.page import Figure, Note, Numbers, Page, Table, count, render, write_page
from videomae2.report.training import curve_blocks, failure_blocks, series, write_run_report
from videomae2.settings import EvaluateSettings

from ..small_runs import DATA


def pictures(html: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)]


def test_a_pretraining_report_shows_curves_reconstructions_and_settings(runs):
    html = write_run_report(runs.pretrained).read_text(encoding="utf-8")
    for expected in (
        "Pre-training: pretrain",
        "<h2>Loss</h2>",
        "validation loss",
        "Reconstruction of",
        "mask.encoder_ratio *",
    ):
        assert expected in html
    assert len(pictures(html)) >= 5
    assert all(picture.startswith(b"\x89PNG") for picture in pictures(html))
    assert not re.search(r'(src|href)="(?!data:)', html)  # nothing beside the file is needed


def test_a_finetuning_report_shows_accuracy_of_both_weights(runs):
    html = write_run_report(runs.finetuned).read_text(encoding="utf-8")
    for expected in ("Fine-tuning: finetune", "Validation accuracy", "top-1, averaged weights"):
        assert expected in html


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_run_report(tmp_path)
    (tmp_path / "config.toml").write_text("[model]\n")
    with pytest.raises(UserError, match="does not say which kind of run"):
        write_run_report(tmp_path)


def test_an_evaluation_report_shows_tables_and_failures(runs, tmp_path):
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
    assert any(
        isinstance(block, Table) and block.folded for block in evaluation_blocks(evaluation, folded=True)
    )


def test_series_leaves_out_lines_that_do_not_have_the_number():
    lines = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": None},
        {"step": 2, "evaluation": {"top1": 0.5}},
        {"step": 3, "loss": 1.0},
    ]
    assert series(lines, "loss") == ([1, 3], [2.0, 1.0])
    assert series(lines, "top1") == ([2], [0.5])
    assert [block.title for block in curve_blocks(lines)] == ["Loss", "Validation accuracy"]
    assert curve_blocks([]) == []


def test_failures_are_a_table_and_none_is_nothing():
    assert failure_blocks([]) == []
    (table,) = failure_blocks([{"path": "a b.mp4", "row": 3, "reason": "no stream"}])
    assert table.rows == [["a b.mp4", "3", "no stream"]]


def test_text_is_escaped_and_every_block_is_drawn():
    page = Page(
        "<b>",
        "a & b",
        [Numbers([("n", "1")]), Note("T", "<i>"), Table("t", ["h"], [["<td>"]]), Figure("f", b"x")],
    )
    html = render(page)
    assert "&lt;b&gt;" in html and "&lt;i&gt;" in html and "&lt;td&gt;" in html and "<i>" not in html


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = write_page(Page("first", "", []), tmp_path / "deep" / "report.html")
    with pytest.raises(UnicodeEncodeError):
        write_page(Page("second", "", [Note("half a character: \ud800")]), path)
    assert "first" in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_pictures_are_exact_png():
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    png = charts.picture_png(picture)
    body = png[png.index(b"IDAT") + 4 : png.index(b"IEND") - 8]
    lines = torch.frombuffer(bytearray(zlib.decompress(body)), dtype=torch.uint8).reshape(5, 1 + 7 * 3)
    assert torch.equal(lines[:, 1:].reshape(5, 7, 3).permute(2, 0, 1), picture)


def test_charts_of_one_point_many_points_and_many_classes():
    few = charts.curves({"a": ([1], [2.0]), "b": ([1, 2], [1.0, 2.0])}, "step", "loss")
    many = charts.curves({"a": (range(500), [1 / (i + 1) for i in range(500)])}, "step", "loss", log_y=True)
    names = [f"class number {i} with a long name" for i in range(60)]
    matrix = charts.confusion_matrix(torch.eye(60, dtype=torch.int64), names)
    bars = charts.bars({"a": 50.0, "b": 20.0}, "accuracy, %", {"chance": 12.5})
    assert all(png.startswith(b"\x89PNG") for png in (few, many, matrix, bars))


def test_smoothing_invents_nothing():
    assert charts.smooth([1.0, 2.0, 3.0, 10.0], 3) == pytest.approx([1.5, 2.0, 5.0, 6.5])
    assert charts.smooth([4.0] * 9, 5) == pytest.approx([4.0] * 9)


def test_the_log_of_a_run_is_read_as_it_is_written(runs):
    lines = [json.loads(line) for line in (runs.finetuned / "metrics.jsonl").read_text().splitlines()]
    steps, losses = series(lines, "loss")
    assert steps == [1, 2] and all(loss > 0 for loss in losses)


def test_columns_of_numbers_stand_right_and_text_left():
    table = Table(
        "t", ["name", "count", "share", "why"], [["7", "1,234", "12.5 %", "no"], ["b", "0", "n/a", "3 of 4"]]
    )
    assert table.sides == ["text", "number", "number", "text"]
    assert (count(1, "video"), count(2000, "video")) == ("1 video", "2,000 videos")
