"""Charts and pictures: PNG bytes that open, exact where they are exact."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from videomae2.report import charts
from videomae2.report.charts import Line


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def test_pictures_are_exact_png() -> None:
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = opened(charts.picture_png(picture))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (7, 5))
    assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), picture)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.curves(
            [Line("a", [1], [2.0]), Line("b", [1, 2], [1.0, 2.0], dashed=True)], "step", "loss"
        ),
        lambda: charts.curves([Line("a", range(500), [1 / (i + 1) for i in range(500)])], "step", "loss"),
        lambda: charts.curves([Line("a", [1, 2], [2.0, 3.0], dashed=True)], "step", "loss"),
        lambda: charts.bars({"a": 50.0, "b": 20.0}, "accuracy, %", {"chance": 12.5}),
        lambda: charts.confusion_matrix(
            torch.eye(60, dtype=torch.int64), [f"a long name {i}" for i in range(60)]
        ),
        lambda: charts.confusion_matrix(torch.zeros(2, 2, dtype=torch.int64), ["a", "b"]),
    ],
    ids=["one point", "many points", "dashed alone", "bars", "many classes", "no video"],
)
def test_every_chart_is_a_picture_with_something_on_it(draw: Callable[[], bytes]) -> None:
    image = opened(draw()).convert("L")
    dark = (np.array(image) < 128).mean()
    assert image.width > 500 and image.height > 400
    assert 0.001 < dark < 0.5  # axes and text are dark, the paper is light


def test_a_dashed_line_takes_the_colour_of_the_line_before_it() -> None:
    lines = [Line("a", [1, 2], [1.0, 2.0]), Line("b", [1, 2], [2.0, 3.0], dashed=True)]
    second = {name: colour_share(charts.curves(lines, "x", "y"), charts.COLOURS[1]) for name in ("dashed",)}
    lines[1] = Line("b", [1, 2], [2.0, 3.0])
    second["solid"] = colour_share(charts.curves(lines, "x", "y"), charts.COLOURS[1])
    assert second["dashed"] == 0 < second["solid"]


def colour_share(png: bytes, colour: str) -> float:
    """Share of the pixels that have exactly this colour."""
    rgb = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return float((np.array(opened(png).convert("RGB")) == rgb).all(axis=2).mean())


def test_smoothing_invents_nothing() -> None:
    assert charts.smooth([1.0, 2.0, 3.0, 10.0], 3) == pytest.approx([1.5, 2.0, 5.0, 6.5])
    assert charts.smooth([4.0] * 9, 5) == pytest.approx([4.0] * 9)
