"""Curves by the names in a log: those of today's tasks, and those of a task nobody here has heard of."""

from typing import Any

import pytest

from videomae2.report import charts
from videomae2.report.charts import percent
from videomae2.report.curves import curve_blocks, measure, series
from videomae2.report.page import Block, Figure

LINES: list[dict[str, Any]] = [
    {"step": 1, "loss": 2.0, "lr": 0.1},
    {"step": 2, "loss": None, "lr": 0.2},
    {"step": 2, "evaluation": {"top1": 0.5, "ema_top1": 0.25, "failed": 1.0}},
    {"step": 3, "loss": 1.0},
]


def titles(blocks: list[Block]) -> list[str]:
    return [block.title for block in blocks if isinstance(block, Figure)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[charts.Line]]:
    """The lines of every chart, in the order of drawing."""
    seen: list[list[charts.Line]] = []

    def draw(lines: list[charts.Line], *_: Any) -> str:
        seen.append(lines)
        return ""

    monkeypatch.setattr(charts, "curves", draw)
    return seen


def test_series_leaves_out_lines_that_do_not_have_the_number() -> None:
    assert series(LINES, "loss") == charts.Line("loss", [1, 3], [2.0, 1.0])
    assert series(LINES, "top1", "top-1", dashed=True) == charts.Line("top-1", [2], [0.5], dashed=True)


def test_each_kind_of_number_has_a_chart_and_counts_have_none() -> None:
    assert titles(curve_blocks(LINES)) == ["Loss", "Validation accuracy", "Learning rate"]
    assert curve_blocks([]) == []


def test_shares_are_drawn_in_per_cent_with_averaged_weights_dashed(drawn: list[list[charts.Line]]) -> None:
    curve_blocks(LINES)
    assert drawn[1] == [
        charts.Line("top-1", [2], [50.0]),
        charts.Line("top-1, averaged weights", [2], [25.0], dashed=True),
    ]


def test_the_loss_of_an_evaluation_is_drawn_beside_that_of_training(drawn: list[list[charts.Line]]) -> None:
    curve_blocks([{"step": 1, "loss": 2.0}, {"step": 1, "evaluation": {"loss": 3.0, "ema_loss": 4.0}}])
    (lines,) = drawn
    assert [(line.name, line.y, line.dashed) for line in lines] == [
        ("training", [2.0], False),
        ("validation", [3.0], False),
        ("validation, averaged weights", [4.0], True),
    ]


def test_numbers_of_an_unknown_task_have_charts_of_their_own(drawn: list[list[charts.Line]]) -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "loss": 2.0, "order_entropy": 0.5},
        {"step": 1, "evaluation": {"accuracy": 0.8, "mean_gap": 3.0}},
    ]
    blocks = curve_blocks(lines)
    assert titles(blocks) == [
        "Loss",
        "Validation accuracy",
        "Validation mean gap",
        "Training order entropy",
    ]
    assert drawn[1] == [charts.Line("accuracy", [1], [0.8])]  # whether it is a share is not known


def test_a_loss_is_drawn_against_that_of_knowing_nothing() -> None:
    def alts(blank: float | None) -> list[str]:
        return [block.alt for block in curve_blocks(LINES, blank) if isinstance(block, Figure)]

    assert alts(1.0)[0].endswith("; 1 = knows nothing") and alts(2.0794)[0].endswith("2.079 = knows nothing")
    assert not any("nothing" in alt for alt in [*alts(None), *alts(1.0)[1:]])


def test_a_curve_is_told_in_words_and_numbers() -> None:
    (loss, *_) = curve_blocks([{"step": step, "loss": value} for step, value in ((1, 2.0), (1000, 0.51234))])
    assert isinstance(loss, Figure)
    assert loss.alt == "loss: training from 2 at step 1 to 0.5123 at step 1,000, lowest 0.5123, highest 2"


def test_only_a_line_that_was_smoothed_is_called_so() -> None:
    captions = []
    for count in (charts.NOISY, charts.NOISY + 1):
        loss = curve_blocks([{"step": step, "loss": 1.0} for step in range(count)])[0]
        assert isinstance(loss, Figure)
        captions.append(loss.caption)
    assert ["smoothed" in caption for caption in captions] == [False, True]


@pytest.mark.parametrize(
    ("key", "value", "name", "written"),
    [
        ("top1", 0.125, "top-1", "12.5 %"),
        ("ema_top1", 1.0, "top-1", "100.0 %"),
        ("loss", 0.123456, "loss", "0.1235"),
        ("failed", 1234.0, "could not be read", "1,234"),
        ("mean_gap", 0.8, "mean gap", "0.8"),
        ("top5", None, "top-5", "n/a"),
    ],
)
def test_a_number_has_a_name_and_a_way_to_write_it(
    key: str, value: float | None, name: str, written: str
) -> None:
    assert (measure(key).name, measure(key).written(value)) == (name, written)


def test_shares_are_written_in_per_cent() -> None:
    assert (percent(0.5), percent(1 / 3, 2), percent(0.25, 0)) == ("50.0 %", "33.33 %", "25 %")
