"""A page is one file: text escaped, pictures inside, written whole or not at all."""

import re
from pathlib import Path

import pytest

from videomae2.report.charts import THEME
from videomae2.report.page import (
    Block,
    Figure,
    Links,
    Note,
    Numbers,
    Page,
    Strips,
    Table,
    Verdict,
    Verdicts,
    count,
    render,
    write_page,
)


def test_text_is_escaped_and_every_block_is_drawn() -> None:
    blocks: list[Block] = [
        Numbers([("n", "1")]),
        Note("T", "<i>"),
        Table("t", ["h"], [["<td>"]]),
        Figure("f", "<svg></svg>", 'says "1"'),
        Strips("s", [("<row>", [b"x", b"y"]), ("", [b"z"])], "loss 0.5"),
        Verdicts("v", [Verdict([b"x"], "<left> 90 %", "<left>", True), Verdict([b"y"], "up", "down", False)]),
        Links("l", [("a <run>", "run/report.html", "what")]),
    ]
    html = render(Page("<b>", "a & b", blocks))
    for escaped in (
        "&lt;b&gt;",
        "a &amp; b",
        "&lt;i&gt;",
        "&lt;td&gt;",
        "<h3>&lt;row&gt;</h3>",
        "a &lt;run&gt;",
    ):
        assert escaped in html
    assert "<i>" not in html and "<row>" not in html and "<left>" not in html
    assert html.count("<section") == len(blocks)
    assert html.count("data:image/png;base64,") == 5
    assert html.count("<h3>") == 1  # a row without a name has no heading


def test_every_picture_is_told_in_words() -> None:
    strips = Strips("s", [("seen", [b"x", b"y"])], "loss 0.5")
    verdicts = Verdicts(
        "v", [Verdict([b"x"], "up 60 %", "down", False), Verdict([b"x"], "up 90 %", "up", True)]
    )
    html = render(Page("t", "", [Figure("f", "<svg></svg>", 'says "1"'), strips, verdicts]))
    assert re.findall(r'role="img" aria-label="([^"]*)"', html) == [
        "says &#34;1&#34;",
        "s: seen. loss 0.5",
        "wrong: predicted up 60 %; true: down",
        "right: predicted up 90 %; true: up",
    ]
    assert len(re.findall(r"[^-]✗", html)) == 1 and len(re.findall(r"✓", html)) == 1


def test_nothing_beside_the_file_is_needed() -> None:
    html = render(Page("t", "", [Figure("f", "<svg/>", "a"), Figure("half", "<svg/>", "b", half=True)]))
    assert not re.search(r'(src|href)="(?!data:|#)', html) and "@import" not in html and "http" not in html
    assert html.count('class="figure half"') == html.count('class="figure wide"') == 1


def test_the_page_has_a_value_for_every_colour_of_the_charts_in_light_and_in_dark() -> None:
    html = render(Page("t", "", []))
    light, dark = html.split("prefers-color-scheme: dark", 1)
    for variable in {*THEME.values()}:
        name = variable.removeprefix("var(").removesuffix(")")
        values = [re.search(rf"{name}: (#\w{{6}})", part) for part in (light, dark.split("</style>")[0])]
        assert all(values) and values[0][1] != values[1][1]  # type: ignore[index]
    for colour, variable in THEME.items():
        assert f"{variable[4:-1]}: {colour};" in light


def test_a_folded_table_is_closed_until_it_is_opened() -> None:
    folded, shown = (render(Page("p", "", [Table("t", ["h"], [["c"]], "", each)])) for each in (True, False))
    assert "<details><summary>t</summary>" in folded
    assert "<details>" not in shown and "<h2>t</h2>" in shown


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_page(Page("first", "", []), tmp_path / "deep" / "report.html")
    with pytest.raises(TypeError):
        write_page(Page("second", "", [Strips("no picture", [("", [None])])]), path)  # type: ignore[list-item]
    assert "first" in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_columns_of_numbers_stand_right_and_text_left() -> None:
    rows = [["7", "1,234", "12.5 %", "no"], ["b", "0", "n/a", "3 of 4"]]
    assert Table("t", ["name", "count", "share", "why"], rows).sides == ["text", "number", "number", "text"]


def test_a_number_with_its_noun() -> None:
    assert (count(1, "video"), count(2000, "video")) == ("1 video", "2,000 videos")
