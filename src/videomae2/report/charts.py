"""Charts as PNG bytes: curves over steps, a confusion matrix, bars; and pictures made of tensors."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Int, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2563a8", "#d1662b", "#3b8f5a", "#8a4fa3", "#b03a48", "#6b7280")
INK, FAINT = "#1d2733", "#e3e7ec"
NOISY = 60
"""Lines with more points than this are also drawn smoothed."""
SPARSE = 30
"""Lines with up to this many points show each one."""
NAMED_CLASSES, COUNTED_CLASSES = 40, 20
"""Up to so many classes a confusion matrix has room for their names, and for a count in each cell."""


@dataclass(frozen=True)
class Line:
    """Values `y` over `x`; a dashed one is a variant of the line before it, whose colour it takes."""

    name: str
    x: Sequence[float | int]
    y: Sequence[float | int]
    dashed: bool = False


def curves(lines: Sequence[Line], x_name: str, y_name: str, width: float = 8.6) -> bytes:
    """Lines over a common axis. Lines with many points are also drawn smoothed, over their own pale trace."""
    figure, axes = _canvas(width, 3.6)
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
    if len(lines) > 1:
        axes.legend(frameon=False)
    return _png(figure)


def bars(
    values: Mapping[str, float | int], y_name: str, marks: Mapping[str, float | int] | None = None
) -> bytes:
    """One bar for each name, its value above it; `marks` are dashed levels such as chance."""
    figure, axes = _canvas(max(4.5, 1.5 * len(values) + 2), 3.6)
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(values))]
    drawn = axes.bar(list(values), list(values.values()), color=colours, width=0.6)
    axes.bar_label(drawn, fmt="%.1f", padding=2)
    for name, level in (marks or {}).items():
        axes.axhline(level, color="#6b7280", linestyle="--", linewidth=1.2)
        axes.text(len(values) - 0.5, level, f" {name}", va="center", ha="left", color="#6b7280", fontsize=9)
    axes.set_ylabel(y_name)
    axes.margins(y=0.15)
    return _png(figure)


def confusion_matrix(counts: Int[Tensor, "K K"], names: Sequence[str]) -> bytes:
    """Row shares of a confusion matrix, true class by row; names and numbers are written where they fit."""
    size = len(names)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(11.0, max(5.2, 2.4 + 0.44 * size))
    figure, axes = _canvas(side, side * 0.86)
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    axes.grid(visible=False)
    if size <= NAMED_CLASSES:
        short = [_short(name) for name in names]
        axes.set_xticks(range(size), short, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(size), short, fontsize=8)
    if size <= COUNTED_CLASSES:
        for i, j in counts.nonzero().tolist():
            colour = "white" if shares[i, j] > 0.55 else INK
            axes.text(j, i, str(int(counts[i, j])), ha="center", va="center", fontsize=8, color=colour)
    return _png(figure)


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


def _canvas(width: float, height: float) -> tuple["Figure", "Axes"]:
    """A figure of its own, `width` x `height` inches, that needs no display.

    pyplot would keep every figure in a global list, and take the backend and style of the user's session.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.ticklabel_format(axis="both", useOffset=False)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
