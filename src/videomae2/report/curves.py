"""The curves of a log: a figure for each number that steps and evaluations wrote.

They know names of numbers, not tasks: `MEASURES` says what each logged name is called, how it is written and
which chart draws it; a name that no row describes is a plain number in a chart of its own.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from videomae2.report import charts
from videomae2.report.charts import NOISY, Level, Line, percent
from videomae2.report.page import Block, Figure

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


LogLine = dict[str, Any]
"""One object of metrics.jsonl: a training line, or an evaluation (`engine/log.py` says what is in it)."""

_OWN_CHART = {
    "lr": ("Learning rate", "learning rate"),
    "grad_norm": ("Gradient norm", "norm before clipping"),
}
"""Title and axis of the charts that every run has."""
_NO_CHART = {"step", "epoch", "loss", "clips_per_second", "seconds_left", "skipped"}
"""Numbers of a training line that have another place, or none; what a task's steps log is charted."""


def curve_blocks(lines: Sequence[LogLine], blank: float | None = None) -> list[Block]:
    """Curves of every logged number: the loss, what evaluations measured, and how the optimizer went.

    `blank` is the loss of a network that knows nothing, where the task has such a number.
    """
    train, evaluations = parted(lines)
    return [*_loss(train, evaluations, blank), *_measured(evaluations), *_optimizer(train)]


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


def _loss(train: Sequence[LogLine], evaluations: Sequence[LogLine], blank: float | None) -> list[Block]:
    """The loss of training, and of evaluations where they log one: in one chart, as they are compared."""
    training = series(train, "loss", "training")
    caption = "Each point is the mean since the point before."
    if len(training.x) > NOISY:
        caption += " The strong line is smoothed."
    level = None if blank is None else knows_nothing(blank)
    lines = [training, *_evaluated(evaluations, "loss", "validation")]
    return figures("Loss", lines, "loss", caption, level)


def knows_nothing(loss: float) -> Level:
    """The mark of the loss that a network has which knows nothing."""
    return Level(f"{loss:.4g} = knows nothing", loss)


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
        blocks += figures(title, lines, "share, %" if shares else first.name, first.note)
    return blocks


def _optimizer(train: Sequence[LogLine]) -> list[Block]:
    """Learning rate, gradient norm, and whatever else a task's steps log."""
    blocks: list[Block] = []
    for key in dict.fromkeys([*_OWN_CHART, *_keys(train)]):
        if key not in _NO_CHART:
            name = measure(key).name
            title, y_name = _OWN_CHART.get(key, (f"Training {name}", name))
            blocks += figures(title, [series(train, key)], y_name)
    return blocks


def _evaluated(evaluations: Sequence[LogLine], key: str, name: str = "") -> list[Line]:
    """A number of the evaluations, and that of the averaged weights."""
    label = name or measure(key).name
    averaged = series(evaluations, AVERAGED + key, f"{label}, averaged weights", dashed=True)
    return [series(evaluations, key, label), averaged]


def figures(
    title: str, lines: Sequence[Line], y_name: str, caption: str = "", level: Level | None = None
) -> list[Block]:
    """One figure of the lines that have points; nothing where none has."""
    drawn = [line for line in lines if line.x]
    if not drawn:
        return []
    told = "; ".join(_told(line) for line in drawn) + (f"; {level.name}" if level else "")
    return [
        Figure(title, charts.curves(drawn, "step", y_name, level), f"{y_name}: {told}", caption, half=True)
    ]


def _told(line: Line) -> str:
    """A line in words, for those who do not see it: where it starts, where it ends, and its extremes."""
    first, last = (f"{line.y[at]:.4g} at step {line.x[at]:,}" for at in (0, -1))
    ends = first if len(line.x) == 1 else f"from {first} to {last}"
    return f"{line.name} {ends}, lowest {min(line.y):.4g}, highest {max(line.y):.4g}"
