"""Logged numbers in a reader's words: what each is called, how it is written, and which chart it belongs to.

Recipes log plain names ("top1"), and a name that no row describes is still shown, as a plain number.
"""

from dataclasses import dataclass
from typing import Literal

AVERAGED = "ema_"
"""How the engine marks numbers of the averaged weights."""

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
    "evaluated": Measure("videos evaluated", "count"),
    "failed": Measure("videos that could not be read", "count"),
    "listed": Measure("videos listed", "count"),
}


def measure(key: str) -> Measure:
    """The row that describes a logged number; averaged weights share the row of the trained ones."""
    plain = key.removeprefix(AVERAGED)
    name = plain.replace("_", " ")
    return MEASURES.get(plain, Measure(name, chart=f"Validation {name}"))


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] as text: 0.125 is "12.5 %"."""
    return f"{100 * share:.{digits}f} %"
