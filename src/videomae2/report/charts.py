"""Charts as PNG bytes: curves over steps, a confusion matrix, bars, and pictures; and the curves of a log.

The curves know names of numbers, not tasks: `MEASURES` says what each logged name is called, how it is
written and which chart draws it; a name that no row describes is a plain number in a chart of its own.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Int, UInt8
from torch import Tensor

from videomae2.report.page import Block, Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

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


def _canvas(width: float, height: float) -> tuple["Drawing", "Axes"]:
    """A figure of its own, `width` x `height` inches, that needs no display.

    pyplot would keep every figure in a global list, and take the backend and style of the user's session.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.ticklabel_format(axis="both", useOffset=False)
    return figure, axes


def _png(figure: "Drawing") -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


AVERAGED = "ema_"
"""How the engine marks numbers of the averaged weights."""

_MISSED = "Boxes of key frames; what is on a key frame that could not be read counts as missed."
_COUNTED_WRONG = "One centre view of each video. A video that could not be read counts as wrong."


@dataclass(frozen=True)
class Measure:
    """One kind of number: its name, how values are written, and the chart that draws it ("": none does)."""

    name: str
    unit: Literal["number", "share", "count"] = "number"
    chart: str = ""
    note: str = ""
    """What a reader must know about the chart."""

    def written(self, value: float | None) -> str:
        """A value as text: a share of 0.125 is "12.5 %"."""
        if value is None:
            return "n/a"
        if self.unit == "share":
            return percent(value)
        return f"{value:,.0f}" if self.unit == "count" else f"{value:.4g}"


MEASURES = {
    "loss": Measure("loss", chart="Loss"),
    "top1": Measure("top-1", "share", "Validation accuracy", _COUNTED_WRONG),
    "top5": Measure("top-5", "share", "Validation accuracy", _COUNTED_WRONG),
    # Seldom far from top-1, whose line it would cover: it is in the table of the last evaluation.
    "mean_class": Measure("mean over classes", "share"),
    "frame_map": Measure("frame mAP@0.5", "share", "Validation frame mAP", _MISSED),
    "box_recall": Measure("annotated boxes found", "share"),
    "boxes": Measure("boxes a clip"),
    "evaluated": Measure("evaluated", "count"),
    "failed": Measure("could not be read", "count"),
    "listed": Measure("listed", "count"),
}


def measure(key: str) -> Measure:
    """The row that describes a logged number; averaged weights share the row of the trained ones."""
    plain = key.removeprefix(AVERAGED)
    name = plain.replace("_", " ")
    return MEASURES.get(plain, Measure(name, chart=f"Validation {name}"))


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] as text: 0.125 is "12.5 %"."""
    return f"{100 * share:.{digits}f} %"


LogLine = dict[str, Any]
"""One object of metrics.jsonl: a training line, or an evaluation (`engine/log.py` says what is in it)."""

_OWN_CHART = {
    "lr": ("Learning rate", "learning rate"),
    "grad_norm": ("Gradient norm", "norm before clipping"),
}
"""Title and axis of the charts that every run has."""
_NO_CHART = {"step", "epoch", "loss", "clips_per_second", "seconds_left", "skipped"}
"""Numbers of a training line that have another place, or none; what a task's steps log is charted."""


def curve_blocks(lines: Sequence[LogLine]) -> list[Block]:
    """Curves of every logged number: the loss, what evaluations measured, and how the optimizer went."""
    train, evaluations = parted(lines)
    return [*_loss(train, evaluations), *_measured(evaluations), *_optimizer(train)]


def series(lines: Sequence[LogLine], key: str, name: str = "", dashed: bool = False) -> Line:
    """The steps and values of one logged number, from training lines or from evaluations.

    Lines without the number are left out, and those where it was not finite: the log holds null there.
    """
    found = [(line["step"], line.get("evaluation", line).get(key)) for line in lines]
    kept = [(step, value) for step, value in found if value is not None]
    return Line(name or key, [step for step, _ in kept], [value for _, value in kept], dashed)


def parted(lines: Sequence[LogLine]) -> tuple[list[LogLine], list[LogLine]]:
    """Training lines and evaluations; notes are in neither."""
    evaluations = [line for line in lines if "evaluation" in line]
    return [line for line in lines if "evaluation" not in line and "note" not in line], evaluations


def _keys(lines: Sequence[LogLine]) -> list[str]:
    """Names of the numbers in some lines, in the order in which they first appear."""
    return list(dict.fromkeys(key for line in lines for key in line.get("evaluation", line)))


def _loss(train: Sequence[LogLine], evaluations: Sequence[LogLine]) -> list[Block]:
    """The loss of training, and of evaluations where they log one: in one chart, as they are compared."""
    training = series(train, "loss", "training")
    caption = "Each point is the mean since the point before."
    if len(training.x) > NOISY:
        caption += " The strong line is smoothed."
    return _figures("Loss", [training, *_evaluated(evaluations, "loss", "validation")], "loss", caption)


def _measured(evaluations: Sequence[LogLine]) -> list[Block]:
    """A chart for each group of numbers that evaluations log, the loss excepted."""
    charted: dict[tuple[str, bool], list[str]] = {}
    for key in _keys(evaluations):
        row = measure(key)
        if key != "loss" and not key.startswith(AVERAGED) and row.chart:
            charted.setdefault((row.chart, row.unit == "share"), []).append(key)
    blocks: list[Block] = []
    for (title, shares), keys in charted.items():
        lines = [line for key in keys for line in _evaluated(evaluations, key)]
        if shares:
            lines = [dataclasses.replace(line, y=[100 * value for value in line.y]) for line in lines]
        first = measure(keys[0])
        blocks += _figures(title, lines, "share, %" if shares else first.name, first.note)
    return blocks


def _optimizer(train: Sequence[LogLine]) -> list[Block]:
    """Learning rate, gradient norm, and whatever else a task's steps log."""
    blocks: list[Block] = []
    for key in dict.fromkeys([*_OWN_CHART, *_keys(train)]):
        if key not in _NO_CHART:
            name = measure(key).name
            title, y_name = _OWN_CHART.get(key, (f"Training {name}", name))
            blocks += _figures(title, [series(train, key)], y_name, half=True)
    return blocks


def _evaluated(evaluations: Sequence[LogLine], key: str, name: str = "") -> list[Line]:
    """A number of the evaluations, and that of the averaged weights."""
    label = name or measure(key).name
    averaged = series(evaluations, AVERAGED + key, f"{label}, averaged weights", dashed=True)
    return [series(evaluations, key, label), averaged]


def _figures(
    title: str, lines: Sequence[Line], y_name: str, caption: str = "", half: bool = False
) -> list[Block]:
    """One figure of the lines that have points; nothing where none has."""
    drawn = [line for line in lines if line.x]
    if not drawn:
        return []
    return [Figure(title, curves(drawn, "step", y_name, 6.0 if half else 8.6), caption, half)]
