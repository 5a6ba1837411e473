"""A page of a report: blocks from top to bottom, written as one HTML file that needs nothing beside it."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videomae2.files import write_atomically

_NUMBER = re.compile(r"([-+]?[\d.,]+( %)?|n/a|None)\Z")


@dataclass(frozen=True)
class Numbers:
    """A row of key figures, each a (name, value) pair."""

    items: Sequence[tuple[str, str]]
    kind: str = field(default="numbers", init=False)


@dataclass(frozen=True)
class Note:
    """A heading with a paragraph of plain text; either may be empty."""

    title: str
    text: str = ""
    kind: str = field(default="note", init=False)


@dataclass(frozen=True)
class Figure:
    """A chart, the SVG text of `charts`, with a caption; `alt` tells its numbers to those who do not see it.

    Two `half` figures in a row share the width where there is room.
    """

    title: str
    svg: str
    alt: str
    caption: str = ""
    half: bool = False
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Strips:
    """Rows of PNG pictures above each other, each a (label, pictures) pair: the same frames in each row."""

    title: str
    rows: Sequence[tuple[str, Sequence[bytes]]]
    caption: str = ""
    half: bool = False
    kind: str = field(default="strips", init=False)


@dataclass(frozen=True)
class Verdict:
    """A prediction beside the truth: PNG pictures of the video, what was said of it, what is right."""

    frames: Sequence[bytes]
    predicted: str
    truth: str
    right: bool


@dataclass(frozen=True)
class Verdicts:
    """Predictions as cards, each with ✓ or ✗."""

    title: str
    cards: Sequence[Verdict]
    caption: str = ""
    kind: str = field(default="verdicts", init=False)


@dataclass(frozen=True)
class Links:
    """Other pages, each a (name, address, what is in it) triple; addresses are relative to this page."""

    title: str
    items: Sequence[tuple[str, str, str]]
    kind: str = field(default="links", init=False)


@dataclass(frozen=True)
class Table:
    """A table; columns of numbers are right-aligned. `folded` shows only its title until it is opened."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    folded: bool = False
    kind: str = field(default="table", init=False)

    @property
    def sides(self) -> list[str]:
        """For each column "number" where every cell is one, else "text"; the first column names its row."""
        columns = [[row[place] for row in self.rows] for place in range(len(self.header))]
        numeric = [
            place > 0 and all(_NUMBER.match(cell) for cell in cells) for place, cells in enumerate(columns)
        ]
        return ["number" if each else "text" for each in numeric]


Block = Numbers | Note | Figure | Strips | Verdicts | Links | Table


@dataclass(frozen=True)
class Page:
    """A title, a line under it, and blocks from top to bottom."""

    title: str
    subtitle: str
    blocks: Sequence[Block]


def render(page: Page) -> str:
    """The page as HTML; text is escaped, pictures and charts are inside the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("videomae2.report", "templates"),
        autoescape=True,  # paths of videos and names of classes are other people's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["address"] = _address
    environment.filters["drawn"] = Markup  # charts alone: matplotlib has escaped the names in them
    return environment.get_template("page.html").render(page=page)


def write_page(page: Page, path: Path) -> Path:
    """Write the page whole or not at all; returns its path."""
    write_atomically(path, render(page))
    return path


def count(number: int, thing: str) -> str:
    """A number with its noun: "1 video", "2 videos"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
