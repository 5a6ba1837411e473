"""Charts as SVG text in the colours of a page: curves over steps, a confusion matrix, bars; and pictures."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Int, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2563a8", "#d1662b", "#3b8f5a", "#8a4fa3", "#b03a48", "#6b7280")
INK, FAINT, SOFT = "#1d2733", "#e3e7ec", "#5f6b7a"
THEME = {INK: "var(--ink)", FAINT: "var(--line)", SOFT: "var(--soft)"} | {
    colour: f"var(--c{place})" for place, colour in enumerate(COLOURS)
}
"""Colours that are drawn with, and the variables of the page by which they follow light and dark."""
NOISY = 60
"""Lines with more points than this are also drawn smoothed."""
SPARSE = 30
"""Lines with up to this many points show each one."""
NAMED_CLASSES, COUNTED_CLASSES = 100, 20
"""Up to so many classes a confusion matrix has room for their names, and for a count in each cell."""


@dataclass(frozen=True)
class Line:
    """Values `y` over `x`; a dashed one is a variant of the line before it, whose colour it takes."""

    name: str
    x: Sequence[float | int]
    y: Sequence[float | int]
    dashed: bool = False


@dataclass(frozen=True)
class Level:
    """A value that a chart marks across its width, such as that of a network that knows nothing."""

    name: str
    value: float


def curves(lines: Sequence[Line], x_name: str, y_name: str, level: Level | None = None) -> str:
    """Lines over a common axis. Lines with many points are also drawn smoothed, over their own pale trace."""

    def draw(axes: "Axes") -> None:
        place = -1
        for line in lines:
            place += 0 if line.dashed and place >= 0 else 1
            colour, style = COLOURS[place % len(COLOURS)], "--" if line.dashed else "-"
            y, label = line.y, line.name
            if len(y) > NOISY:
                axes.plot(line.x, y, color=colour, alpha=0.25, linewidth=1.6)
                y = smooth(y, window=max(5, len(y) // 40))
            axes.plot(line.x, y, style, color=colour, linewidth=1.8, label=label)
            if len(y) <= SPARSE:
                axes.plot(line.x, y, ".", color=colour, markersize=6)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        if level is not None:
            axes.axhline(level.value, color=SOFT, linestyle=":", linewidth=1.4, label=level.name)
        if len(lines) > 1 or level is not None:
            axes.legend(frameon=False, fontsize=9)

    return _drawn(5.2, 3.2, draw)


@dataclass(frozen=True)
class Bar:
    """A share in [0, 1] with its interval, under a name."""

    name: str
    value: float
    interval: tuple[float, float]


def bars(values: Sequence[Bar], x_name: str, levels: Sequence[Level] = ()) -> str:
    """Lying bars in per cent, each under its name, with interval and value; `levels` cross each."""

    def draw(axes: "Axes") -> None:
        for place, bar in enumerate(values):
            low, high = (100 * end for end in bar.interval)
            colour, y = COLOURS[place % len(COLOURS)], -place
            axes.barh(y, 100 * bar.value, height=0.36, color=colour)
            axes.plot([low, high], [y, y], "|-", color=INK, linewidth=1.4, markersize=9)
            # Above the bar rather than beside it, where a phone would have no room for it.
            axes.text(0, y + 0.24, bar.name, va="bottom", ha="left", fontsize=8.5)
            axes.text(high + 1.5, y, percent(bar.value), va="center", ha="left", fontsize=8.5, weight="bold")
        for number, level in enumerate(levels):
            # Beside each bar alone: across the chart they would run through the names.
            at = [100 * level.value] * len(values)
            lows, highs = ([half - place for place in range(len(values))] for half in (-0.22, 0.22))
            axes.vlines(at, lows, highs, color=INK, linestyle=":" if number else "-", label=level.name)
        if levels:
            axes.legend(frameon=False, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1)
        axes.set(xlim=(0, 112), ylim=(-len(values) + 0.6, 0.75), yticks=[])
        axes.set_xlabel(x_name, fontsize=9)
        axes.set_xticks(range(0, 101, 20))
        axes.grid(visible=False, axis="y")

    return _drawn(4.6, 0.66 * len(values) + 0.9 + 0.22 * len(levels), draw)


def confusion_matrix(counts: Int[Tensor, "K K"], names: Sequence[str]) -> str:
    """Row shares of a confusion matrix, true class by row: the stronger a cell, the larger its share.

    Names and numbers are written where there is room for them.
    """
    size = len(names)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    # One colour in as many strengths, over whatever ground the page has, dark or light.
    picture = shares.new_zeros((size, size, 4))
    picture[..., :3] = picture.new_tensor([int(COLOURS[0][at : at + 2], 16) / 255 for at in (1, 3, 5)])
    picture[..., 3] = shares.sqrt()  # so that single mistakes of a large class are seen
    cell = 0.36 if size <= COUNTED_CLASSES else 0.12

    def draw(axes: "Axes") -> None:
        axes.imshow(picture.numpy(), interpolation="none")  # "none" keeps one pixel a cell in the file
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.grid(visible=False)
        if size <= NAMED_CLASSES:
            text, short = (8.5 if size <= COUNTED_CLASSES else 7), [shorten(name) for name in names]
            axes.set_xticks(range(size), short, rotation=90 if size > COUNTED_CLASSES else 50, ha="right",
                            va="center" if size > COUNTED_CLASSES else "top",
                            rotation_mode="anchor", fontsize=text)  # fmt: skip
            axes.set_yticks(range(size), short, fontsize=text)
        if size <= COUNTED_CLASSES:
            for i, j in counts.nonzero().tolist():
                colour = "white" if shares[i, j] > 0.55 else INK
                axes.text(j, i, str(int(counts[i, j])), ha="center", va="center", fontsize=8.5, color=colour)

    widest = max((len(shorten(name)) for name in names), default=0) * 0.075 if size <= NAMED_CLASSES else 0.4
    side = max(2.4, cell * min(size, 100)) + widest + 0.4
    return _drawn(side, side, draw)


def smooth(values: Sequence[float | int], window: int) -> list[float]:
    """A centred running mean; windows shrink at both ends, so that nothing is invented there."""
    half = window // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    spans = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def picture_png(picture: UInt8[Tensor, "C H W"]) -> bytes:
    """A colour picture [3, H, W] as PNG, which loses nothing."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy()).save(stream, "PNG")
    return stream.getvalue()


def _drawn(width: float, height: float, draw: Callable[["Axes"], None]) -> str:
    """A chart of `width` x `height` inches as SVG text for a page.

    pyplot would keep every figure in a global list, and take the backend and style of the user's session.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    # Text stays text, which can be read aloud, searched and scaled; a fixed salt gives equal ids to equal
    # shapes, so that a report is the same file whenever it is written.
    style: Any = dict.fromkeys(inked, INK) | {"svg.fonttype": "none", "svg.hashsalt": "videomae2"}
    with rc_context(style):
        figure = Canvas(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.ticklabel_format(axis="both", useOffset=False)
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(stream.getvalue())


_OF_A_FILE = (
    r"<metadata>.*?</metadata>",
    r"<style.*?</style>",
    r' xmlns(:\w+)?="[^"]*"',
    r" font-family: [^;\"]*;",
    r' id="[a-z]+[a-z0-9]*(?:\.\w+)*_\d+"',  # figure_1, matplotlib.axis_2: several charts share a page
)
"""Parts of an SVG file that a page has once, or not at all."""


def _for_page(svg: str) -> str:
    """The <svg> element alone: what only a file needs is gone, colours and fonts are those of the page."""
    svg = svg[svg.index("<svg") :]
    for useless in _OF_A_FILE:
        svg = re.sub(useless, "", svg, flags=re.DOTALL)
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    return re.sub(r"\s*\n\s*", " ", svg).strip()


def shorten(name: str, length: int = 24) -> str:
    """A name of at most `length` characters: the middle of a longer one is left out.

    Names of one data set often begin alike, and differ at their ends.
    """
    if len(name) <= length:
        return name
    tail = length // 2 - 1
    return f"{name[: length - tail - 1]}…{name[-tail:]}"


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] as text: 0.125 is "12.5 %"."""
    return f"{100 * share:.{digits}f} %"
