"""A page is one file: text escaped, pictures inside, written whole or not at all."""

import re
from pathlib import Path

import pytest

from videomae2.report.page import Block, Figure, Note, Numbers, Page, Strips, Table, count, render, write_page


def test_text_is_escaped_and_every_block_is_drawn() -> None:
    blocks: list[Block] = [
        Numbers([("n", "1")]),
        Note("T", "<i>"),
        Table("t", ["h"], [["<td>"]]),
        Figure("f", b"x"),
        Strips("s", [("<row>", b"y"), ("", b"z")]),
    ]
    html = render(Page("<b>", "a & b", blocks))
    for escaped in ("&lt;b&gt;", "a &amp; b", "&lt;i&gt;", "&lt;td&gt;", "<h3>&lt;row&gt;</h3>"):
        assert escaped in html
    assert "<i>" not in html and "<row>" not in html
    assert html.count("<section") == len(blocks)
    assert html.count("data:image/png;base64,") == 3
    assert html.count("<h3>") == 1  # a row without a name has no heading


def test_nothing_beside_the_file_is_needed() -> None:
    html = render(Page("t", "", [Figure("f", b"x"), Figure("half", b"y", half=True)]))
    assert not re.search(r'(src|href)="(?!data:)', html) and "@import" not in html and "http" not in html
    assert html.count('class="figure half"') == 1


def test_a_folded_table_is_closed_until_it_is_opened() -> None:
    folded, shown = (render(Page("p", "", [Table("t", ["h"], [["c"]], "", each)])) for each in (True, False))
    assert "<details><summary>t</summary>" in folded
    assert "<details>" not in shown and "<h2>t</h2>" in shown


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_page(Page("first", "", []), tmp_path / "deep" / "report.html")
    with pytest.raises(UnicodeEncodeError):
        write_page(Page("second", "", [Note("half a character: \ud800")]), path)
    assert "first" in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_columns_of_numbers_stand_right_and_text_left() -> None:
    rows = [["7", "1,234", "12.5 %", "no"], ["b", "0", "n/a", "3 of 4"]]
    assert Table("t", ["name", "count", "share", "why"], rows).sides == ["text", "number", "number", "text"]


def test_a_number_with_its_noun() -> None:
    assert (count(1, "video"), count(2000, "video")) == ("1 video", "2,000 videos")
