"""Reports of runs: one HTML file with everything inside, made from a run's log, settings and own blocks."""

import base64
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.config import to_toml
from videomae2.engine.run import Metric
from videomae2.errors import UserError
from videomae2.recipes.tasks import TASKS, TaskRow
from videomae2.report.page import Figure, Note, Table
from videomae2.report.training import (
    confusion_blocks,
    duration,
    evaluation_table,
    failure_blocks,
    key_numbers,
    write_run_report,
)
from videomae2.settings import DataSettings

from ..small_runs import SmallRuns


def pictures(html: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)]


@pytest.fixture
def copied(runs: SmallRuns, tmp_path: Path) -> Path:
    """What a report of a fine-tuning run is made from."""
    run = tmp_path / "copied"
    run.mkdir()
    for name in ("config.toml", "metrics.jsonl", "finished.json", "confusion.json"):
        (run / name).write_text((runs.finetuned / name).read_text())
    return run


def test_a_finetuning_report_shows_accuracy_of_both_weights(runs: SmallRuns, copied: Path) -> None:
    html = write_run_report(copied, [Note("Of the task", "itself")], blank=0.6931).read_text("utf-8")
    for expected in (
        "Fine-tuning: copied",
        f"vit_ti16, 8 frames of 32x32; trained on {runs.videos}",
        "<h2>Loss</h2>",
        "Validation accuracy",
        "top-1, averaged weights",
        "<h2>Of the task</h2>",
        "Evaluation after step 2",
        "0.6931 = knows nothing",
        "<span>wall time</span>",
        "optim.layer_decay<",  # as the command's default is
        "optim.ema_decay *",
    ):
        assert expected in html
    assert html.count("<svg") == 4 and pictures(html) == []


def test_a_report_says_how_its_run_went(runs: SmallRuns, copied: Path) -> None:
    html = write_run_report(copied).read_text("utf-8")
    cells = dict(re.findall(r'<tr><td class="text">([^<]*)</td><td class="text">([^<]*)</td></tr>', html))
    kept = json.loads((copied / "finished.json").read_text())
    assert cells["started from"] == str(runs.pretrained)
    assert "thread" in cells["device"] and re.search(r"torch 2\.", cells["versions"])
    assert "videomae2 " in cells["versions"]
    assert cells["wall time"] == duration(kept["how"]["seconds"])
    assert cells["best checkpoint"].startswith(f"step {kept['best']['step']}: top-1 ")
    assert cells["last step"] == "2"
    (copied / "finished.json").unlink()
    assert "the run is not finished" in write_run_report(copied).read_text("utf-8")


def test_the_last_evaluation_of_finetuning_has_its_confusions(copied: Path) -> None:
    figure, *tables = confusion_blocks(copied)
    kept = json.loads((copied / "confusion.json").read_text())
    counts = torch.tensor(kept["counts"])
    lines = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    last = [line["evaluation"] for line in lines if "evaluation" in line][-1]
    # The weights that the run leaves are the averaged ones.
    assert int(counts.diagonal().sum()) == round(last["ema_top1"] * last["listed"])
    assert (
        kept["names"] == ["left", "right"] and counts.sum(1).tolist() == [3, 3] and kept["failed"] == [0, 0]
    )
    assert isinstance(figure, Figure)
    assert f"{int(counts.diagonal().sum())} of 6 videos are on the diagonal" in figure.alt
    assert figure.caption.startswith("Of the last evaluation, one centre view of each validation video. ")
    assert all(isinstance(table, Table) for table in tables)
    assert confusion_blocks(copied.parent) == []


@pytest.mark.parametrize(
    ("seconds", "written"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (545, "9 min 05 s"), (12000, "3 h 20 min")]
)
def test_times_are_written_as_they_are_said(seconds: float, written: str) -> None:
    assert duration(seconds) == written


@dataclass(frozen=True)
class ReversedSettings:
    """Settings of a task that the package does not have."""

    data: DataSettings = field(default_factory=DataSettings)
    guesses: int = 3


def never(*_: Any) -> Any:
    raise AssertionError("a report prepares no task")


@pytest.fixture
def reversed_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the table, as whoever adds a task writes it."""
    row = TaskRow(
        "Was it reversed?", "Tell the order.", ReversedSettings, never, "classifier", Metric("accuracy")
    )
    monkeypatch.setitem(TASKS, "reversed", row)


@pytest.mark.usefixtures("reversed_row")
def test_a_task_that_only_the_table_has_heard_of_gets_its_report(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    page = to_toml(ReversedSettings(guesses=4))
    (run / "config.toml").write_text(f"# videomae2 run of ReversedSettings\n\n{page}")
    lines: list[dict[str, Any]] = [
        {"step": 10, "epoch": 0.5, "loss": 0.7, "lr": 0.1, "clips_per_second": 5.0},
        {"step": 10, "epoch": 0.5, "evaluation": {"accuracy": 0.9}},
        {"step": 20, "epoch": 1.0, "loss": 0.6, "lr": 0.1, "clips_per_second": 7.0},
        {"step": 20, "epoch": 1.0, "evaluation": {"accuracy": 0.8}},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html = write_run_report(run).read_text("utf-8")
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert titles == ["Loss", "Validation accuracy", "Learning rate", "How it ran"]
    assert "Was it reversed?: run" in html
    assert "<b>0.8</b><span>validation accuracy</span>" in html
    assert "<b>0.9</b><span>best accuracy, step 10</span>" in html
    assert re.search(r"guesses \*</td><td[^>]*>4<", html) and "<summary>Settings</summary>" in html


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        write_run_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


TOP1, LOSS = Metric("top1"), Metric("loss", higher_is_better=False)


def test_key_numbers_say_where_a_run_stands() -> None:
    assert key_numbers([], TOP1).items == [("steps", "0")]
    lines: list[dict[str, Any]] = [
        {"step": 1000, "epoch": 2.5, "loss": None, "clips_per_second": 3.0, "skipped": 2},
        {"step": 1000, "evaluation": {"top5": 0.75, "top1": 0.5, "ema_top1": 0.625}},
    ]
    assert dict(key_numbers(lines, TOP1).items) == {
        "steps": "1,000",
        "epochs": "2.5",
        "validation top-1": "50.0 %",
        "top-1, averaged weights": "62.5 %",
        "clips a second, median": "3.0",
        "steps skipped as not finite": "2",
    }
    assert [name for name, _ in key_numbers(lines, LOSS).items] == [
        "steps",
        "epochs",
        "clips a second, median",
        "steps skipped as not finite",
    ]


@pytest.mark.parametrize(("best", "expected"), [(LOSS, ("1", "0.25")), (Metric("loss"), ("2", "0.75"))])
def test_the_best_number_of_either_weights_is_shown_if_it_is_not_the_last(
    best: Metric, expected: tuple[str, str]
) -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "evaluation": {"loss": 0.5, "ema_loss": 0.25}},
        {"step": 2, "evaluation": {"loss": 0.25, "ema_loss": 0.75}},
        {"step": 3, "evaluation": {"loss": 0.5, "ema_loss": 0.5}},
    ]
    step, value = expected
    assert key_numbers(lines, best).items[-1] == (f"best loss, step {step}", value)
    assert "best" not in str(key_numbers(lines[:1], best).items)
    assert dict(key_numbers(lines, best, {"how": {"seconds": 61.0}}).items)["wall time"] == "1 min 01 s"


def test_the_last_evaluation_is_a_table_where_it_has_several_numbers() -> None:
    assert evaluation_table([{"step": 1, "evaluation": {"loss": 0.5, "ema_loss": 0.25}}]) == []
    (one,) = evaluation_table([{"step": 1, "evaluation": {"top1": 0.5, "failed": 2.0}}])
    assert isinstance(one, Table)
    assert (one.header, one.rows[0]) == (["measure", "trained weights"], ["top-1", "50.0 %"])
    (two,) = evaluation_table([{"step": 9, "evaluation": {"top1": 0.5, "failed": 2.0, "ema_top1": 0.75}}])
    assert isinstance(two, Table)
    assert two.rows == [["top-1", "50.0 %", "75.0 %"], ["could not be read", "2", "n/a"]]


def test_failures_are_a_table_and_none_is_nothing() -> None:
    assert failure_blocks([]) == []
    (table,) = failure_blocks([{"path": "a b.mp4", "row": 3, "reason": "no stream"}])
    assert isinstance(table, Table)
    assert table.rows == [["a b.mp4", "3", "no stream"]]
    assert "shown" not in table.caption
    (many,) = failure_blocks([{"path": "a", "row": row, "reason": "gone"} for row in range(201)])
    assert isinstance(many, Table)
    assert (len(many.rows), many.title) == (200, "201 videos could not be read")
    assert "The first 200 are shown" in many.caption
