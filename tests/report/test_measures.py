"""Logged numbers in a reader's words."""

import pytest

from videomae2.report.measures import measure, percent


@pytest.mark.parametrize(
    ("key", "value", "name", "written"),
    [
        ("top1", 0.125, "top-1", "12.5 %"),
        ("ema_top1", 1.0, "top-1", "100.0 %"),
        ("loss", 0.123456, "loss", "0.1235"),
        ("failed", 1234.0, "videos that could not be read", "1,234"),
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
