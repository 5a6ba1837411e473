"""Charts as PNG bytes: curves over steps, a confusion matrix, bars; and pictures made of tensors."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Int, UInt8
from torch import Tensor

COLOURS = ("#2563a8", "#d1662b", "#3b8f5a", "#8a4fa3", "#b03a48", "#6b7280")
NOISY = 60
"""Lines with more points than this are also drawn smoothed."""
Curve = tuple[Sequence[float | int], Sequence[float | int]]
"""x values and y values of one line."""


def curves(lines: Mapping[str, Curve], x_name: str, y_name: str, log_y: bool = False) -> bytes:
    """Lines over a common axis. Lines with many points are also drawn smoothed, over their own pale trace."""
    figure, axes = _canvas(8.6, 3.6)
    for (name, (x, y)), colour in zip(lines.items(), _cycle(len(lines)), strict=True):
        noisy = len(y) > NOISY
        axes.plot(
            x, y, color=colour, alpha=0.25 if noisy else 1.0, linewidth=1.6, label=None if noisy else name
        )
        if noisy:
            axes.plot(x, smooth(y, window=max(5, len(y) // 40)), color=colour, linewidth=1.8, label=name)
        elif len(y) <= 30:
            axes.plot(x, y, ".", color=colour, markersize=6)
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    if log_y:
        axes.set_yscale("log")
    if len(lines) > 1:
        axes.legend(frameon=False)
    return _png(figure)


def bars(
    values: Mapping[str, float | int], y_name: str, marks: Mapping[str, float | int] | None = None
) -> bytes:
    """One bar for each name, its value above it; `marks` are dashed levels such as chance."""
    figure, axes = _canvas(max(4.5, 1.2 * len(values) + 2), 3.4)
    drawn = axes.bar(list(values), list(values.values()), color=list(_cycle(len(values))), width=0.6)
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
    side = min(11.0, max(4.2, 2.2 + 0.42 * size))
    figure, axes = _canvas(side, side * 0.9)
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, label="share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(visible=False)
    if size <= 40:
        axes.set_xticks(
            range(size),
            [_short(n) for n in names],
            rotation=60,
            ha="right",
            rotation_mode="anchor",
            fontsize=8,
        )
        axes.set_yticks(range(size), [_short(n) for n in names], fontsize=8)
    if size <= 20:
        for i, j in counts.nonzero().tolist():
            dark = shares[i, j] > 0.55
            axes.text(
                j,
                i,
                int(counts[i, j]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "#1d2733",
            )
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
    """A colour picture [3, H, W] as PNG, exact to the byte."""
    _, height, width = picture.shape
    raw = picture.permute(1, 2, 0).contiguous().cpu().numpy()
    lines = b"".join(b"\x00" + raw[y].tobytes() for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(lines, 6))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure of its own: nothing of matplotlib's global state is read or changed, and no display is
    needed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e3e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.ticklabel_format(axis="both", useOffset=False)
    return figure, axes


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
