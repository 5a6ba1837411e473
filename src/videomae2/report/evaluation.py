"""report.html of an evaluation: accuracy, per-class table, confusion matrix, and what could not be read."""

from collections.abc import Sequence
from pathlib import Path

from videomae2.metrics.accuracy import ClassScore
from videomae2.recipes.evaluate import Evaluation
from videomae2.report import charts
from videomae2.report.curves import percent
from videomae2.report.page import Block, Figure, Numbers, Page, Table, count, write_page

SHOWN_CLASSES = 30
"""Tables of more classes are folded: the page goes on below them."""
MOST_CONFUSED = 10
"""Pairs of classes listed as most often confused."""


def write_evaluation_report(evaluation: Evaluation, out: str | Path) -> Path:
    """Write report.html into the folder `out`; returns its path."""
    subtitle = f"{evaluation.weights} on {evaluation.data}, {evaluation.views[0]}x{evaluation.views[1]} views"
    return write_page(Page("Evaluation", subtitle, evaluation_blocks(evaluation)), Path(out) / "report.html")


def evaluation_blocks(evaluation: Evaluation) -> list[Block]:
    """Key numbers, the confusion matrix, tables by class and by confusion, and the videos that failed."""
    names = evaluation.class_names
    matrix = charts.confusion_matrix(evaluation.confusion, names)
    caption = "Each row is a true class; colours are shares of the row, numbers are videos."
    blocks: list[Block] = [
        _numbers(evaluation),
        Figure("Confusion matrix", matrix, caption),
        class_table(evaluation.classes, names, folded=len(names) > SHOWN_CLASSES),
    ]
    confused = _confused(evaluation)
    if confused:
        blocks.append(Table("Most often confused", ["true", "predicted", "videos"], confused))
    if evaluation.failures:
        rows = [[failure.path, str(failure.row), failure.reason] for failure in evaluation.failures]
        blocks.append(
            Table(f"Failed, counted as wrong: {count(len(rows), 'video')}", ["video", "row", "why"], rows)
        )
    return blocks


def class_table(classes: Sequence[ClassScore], names: Sequence[str], folded: bool = False) -> Table:
    """One line for each class, in the order of the class numbers."""
    rows = [
        [
            names[each.label],
            str(each.listed),
            str(each.failed),
            str(each.right),
            "n/a" if each.accuracy is None else percent(each.accuracy),
            "n/a" if each.right5 is None or not each.listed else percent(each.right5 / each.listed),
        ]
        for each in classes
    ]
    header = ["class", "listed", "failed", "right", "top-1", "top-5"]
    return Table("Per class", header, rows, "Failed videos count as wrong.", folded)


def _numbers(evaluation: Evaluation) -> Numbers:
    accuracy = evaluation.accuracy
    return Numbers(
        [
            ("top-1", percent(accuracy.top1, 2)),
            ("top-5", "n/a" if accuracy.top5 is None else percent(accuracy.top5, 2)),
            ("mean over classes", percent(accuracy.mean_class, 2)),
            ("evaluated", f"{accuracy.evaluated:,}"),
            ("failed", f"{accuracy.failed:,}"),
            ("listed", f"{accuracy.listed:,}"),
        ]
    )


def _confused(evaluation: Evaluation) -> list[list[str]]:
    """The off-diagonal pairs with the most videos."""
    counts = evaluation.confusion.clone().fill_diagonal_(0)
    best = counts.flatten().sort(descending=True, stable=True)
    pairs = [
        (int(n), int(place))
        for n, place in zip(best.values[:MOST_CONFUSED], best.indices[:MOST_CONFUSED], strict=True)
    ]
    size, names = len(counts), evaluation.class_names
    return [[names[place // size], names[place % size], str(n)] for n, place in pairs if n > 0]
