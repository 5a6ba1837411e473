"""Charts are SVG that opens, in the colours of the page; pictures are exact PNG."""

import base64
import io
import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from videomae2.report import charts
from videomae2.report.charts import Bar, Level, Line


def test_pictures_are_exact_png() -> None:
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.open(io.BytesIO(charts.picture_png(picture)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (7, 5))
    assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), picture)


def opened(svg: str) -> ElementTree.Element:
    """The chart as a tree: HTML declares no namespaces, XML wants them."""
    return ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))


def words(svg: str) -> list[str]:
    return ["".join(each.itertext()).strip() for each in opened(svg).iter("text")]


LONG = [f"a class of which the name is long, number {i}" for i in range(100)]


@pytest.mark.parametrize(
    ("draw", "written"),
    [
        (
            lambda: charts.curves(
                [Line("a", [1], [2.0]), Line("b", [1, 2], [1.0, 2.0], dashed=True)], "step", "loss"
            ),
            {"a", "b", "step", "loss"},
        ),
        (lambda: charts.curves([Line("a", range(500), [1 / (i + 1) for i in range(500)])], "s", "l"), {"s"}),
        (lambda: charts.curves([Line("a", [1, 2], [2.0, 3.0])], "s", "l", Level("flat", 4.0)), {"a", "flat"}),
        (
            lambda: charts.bars(
                [Bar("an arm", 0.5, (0.4, 0.6)), Bar("b", 1.0, (0.9, 1.0))], "%", [Level("chance", 0.1)]
            ),
            {"an arm", "50.0 %", "100.0 %", "chance"},
        ),
        (
            lambda: charts.confusion_matrix(torch.eye(100, dtype=torch.int64), LONG),
            {charts.shorten(LONG[0]), charts.shorten(LONG[99]), "predicted", "true"},
        ),
        (
            lambda: charts.confusion_matrix(torch.zeros(2, 2, dtype=torch.int64), ["<a>", "b & c"]),
            {"<a>", "b & c"},
        ),
        (lambda: charts.confusion_matrix(torch.eye(400, dtype=torch.int64), ["a"] * 400), {"predicted"}),
    ],
    ids=["one point", "many points", "level", "bars", "100 long names", "no video", "400 classes"],
)
def test_every_chart_is_svg_with_its_words_in_the_colours_of_the_page(
    draw: Callable[[], str], written: set[str]
) -> None:
    svg = draw()
    assert written <= set(words(svg))
    # No colour of its own, but white on the strongest cells: it follows the page into the dark.
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) <= {*charts.THEME.values(), "none", "#ffffff"}
    for of_a_file in ("<?xml", "<metadata", "<style", "http", "font-family"):
        assert of_a_file not in svg
    assert draw() == svg  # a report is the same file whenever it is written


def test_two_charts_on_a_page_share_no_id_but_of_equal_shapes() -> None:
    one, other = (charts.curves([Line("a", [1, 2], [0.0, high])], "x", "y") for high in (1.0, 2.0))
    found = [
        dict(re.findall(r'<(?:path|clipPath) id="(\w+)"( d="[^"]*"|>.*?</clipPath>)', svg))
        for svg in (one, other)
    ]
    for name in set(found[0]) & set(found[1]):
        assert found[0][name] == found[1][name]
    assert not re.search(r'id="(figure|axes)', one + other)


def test_the_cells_of_a_matrix_are_one_colour_in_strengths() -> None:
    svg = charts.confusion_matrix(torch.tensor([[3, 1], [0, 0]]), ["a", "b"])
    data = re.search(r"data:image/png;base64,\s*([^\"]+)", svg)
    assert data is not None
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(data[1]))).convert("RGBA"))
    assert pixels.shape == (2, 2, 4)  # one pixel a cell
    assert pixels[..., 3].tolist() == [[220, 127], [0, 0]]  # the root of a row's share; no videos, no colour
    assert tuple(pixels[0, 0, :3]) == tuple(bytes.fromhex(charts.COLOURS[0][1:]))
    assert {"3", "1"} <= set(words(svg)) and "0" not in words(svg)


def test_an_interval_is_drawn_from_its_low_to_its_high_end() -> None:
    wide, narrow = (charts.bars([Bar("a", 0.5, (0.5 - d, 0.5 + d))], "%") for d in (0.2, 0.1))

    def length(svg: str) -> float:
        ends = re.search(r"M ([\d.]+) [\d.]+ L ([\d.]+) [\d.]+ \" clip-path[^>]*stroke: var\(--ink\)", svg)
        assert ends is not None
        return float(ends[2]) - float(ends[1])

    assert length(wide) == pytest.approx(2 * length(narrow), rel=1e-3)


def test_a_dashed_line_takes_the_colour_of_the_line_before_it() -> None:
    lines = [Line("a", [1, 2], [1.0, 2.0]), Line("b", [1, 2], [2.0, 3.0], dashed=True)]
    assert "--c1" not in charts.curves(lines, "x", "y")
    assert "--c1" in charts.curves([lines[0], Line("b", [1, 2], [2.0, 3.0])], "x", "y")


def test_long_names_keep_both_ends() -> None:
    assert charts.shorten("short") == "short"
    assert charts.shorten("a" * 20 + "b" * 20, 24) == "a" * 12 + "…" + "b" * 11
    assert len({charts.shorten(name) for name in LONG}) == 100


def test_smoothing_invents_nothing() -> None:
    assert charts.smooth([1.0, 2.0, 3.0, 10.0], 3) == pytest.approx([1.5, 2.0, 5.0, 6.5])
    assert charts.smooth([4.0] * 9, 5) == pytest.approx([4.0] * 9)
