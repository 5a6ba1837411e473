"""report.html of a training run, and of an evaluation: what was reached, how it got there, what failed.

A run's page knows no task. A title and the metric that matters come from the task's row, what else was
measured from the names in the log, and what only one task can show, such as reconstructions, comes in as
blocks.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from videomae2 import config
from videomae2.engine.log import read_failures, read_metrics
from videomae2.engine.run import Metric, RunFolder
from videomae2.files import json_text
from videomae2.metrics.accuracy import ClassScore
from videomae2.recipes.evaluate import Evaluation
from videomae2.recipes.finetune import CONFUSIONS
from videomae2.recipes.tasks import TASKS, run_settings, task_of
from videomae2.report import charts
from videomae2.report.charts import percent
from videomae2.report.curves import AVERAGED, LogLine, curve_blocks, measure, parted
from videomae2.report.page import Block, Figure, Numbers, Page, Table, count, write_page

REPORT = "report.html"
SHOWN_FAILURES = 200
"""Videos that could not be read and are listed; failures.jsonl names all."""


def write_run_report(folder: str | Path, blocks: Sequence[Block] = (), blank: float | None = None) -> Path:
    """Write report.html into a run's folder, from its settings and its log; returns the path.

    `blocks` are what its task has to show beside them, `blank` is the loss of a network that knows nothing.
    UserError: `folder` holds no run, or one of no task in the table.
    """
    folder = Path(folder)
    settings = run_settings(folder)
    row = TASKS[task_of(settings)]
    lines = read_metrics(folder / "metrics.jsonl")
    finished = RunFolder(folder).finished or {}
    content = [
        key_numbers(lines, row.best, finished),
        *curve_blocks(lines, blank),
        *evaluation_table(lines),
        *blocks,
        *failure_blocks(read_failures(folder / "failures.jsonl")),
        how_it_ran(settings, finished),
        settings_table(settings),
    ]
    page = Page(f"{row.title}: {folder.resolve().name}", _subtitle(settings), content)
    return write_page(page, folder / REPORT)


def key_numbers(lines: Sequence[LogLine], best: Metric, finished: Mapping[str, Any] | None = None) -> Numbers:
    """Where the run stands: its last training line, and the number by which its checkpoints are compared."""
    train, evaluations = parted(lines)
    last = train[-1] if train else {}
    items = [("steps", f"{last.get('step', 0):,}")]
    if "epoch" in last:
        items.append(("epochs", f"{last['epoch']:.4g}"))
    if last.get("loss") is not None:
        items.append(("training loss", f"{last['loss']:.4f}"))
    items += _judged(evaluations, best)
    if "seconds" in (how := (finished or {}).get("how", {})):
        items.append(("wall time", duration(how["seconds"])))
    if train:
        speeds = sorted(line["clips_per_second"] for line in train)
        items.append(("clips a second, median", f"{speeds[len(speeds) // 2]:.1f}"))
    if last.get("skipped"):
        items.append(("steps skipped as not finite", f"{last['skipped']:,}"))
    return Numbers(items)


def _judged(evaluations: Sequence[LogLine], best: Metric) -> list[tuple[str, str]]:
    """The last value of the number that matters, of either weights, and the best one with its step."""
    row, keys = measure(best.name), (best.name, AVERAGED + best.name)
    found = [
        (line["evaluation"][key], line["step"])
        for line in evaluations
        for key in keys
        if line["evaluation"].get(key) is not None
    ]
    if not found:
        return []
    last = evaluations[-1]["evaluation"]
    names = (f"validation {row.name}", f"{row.name}, averaged weights")
    items = [(name, row.written(last[key])) for name, key in zip(names, keys, strict=True) if key in last]
    # The first of equals, as the engine chooses the checkpoint that it keeps.
    value, step = (max if best.higher_is_better else min)(found, key=lambda each: each[0])
    if len(evaluations) > 1:
        items.append((f"best {row.name}, step {step:,}", row.written(value)))
    return items


def how_it_ran(settings: Any, finished: Mapping[str, Any]) -> Table:
    """From what weights a run started, on what it ran, how long, and which checkpoint was the best."""
    how, best = finished.get("how", {}), finished.get("best")
    init = getattr(settings, "init", "")
    rows = [["started from", init or "random weights"]]
    if how:
        count_of = how["processes"]
        rows.append(["device", how["device"] + (f", {count_of} processes" if count_of > 1 else "")])
        rows.append(["versions", ", ".join(f"{name} {number}" for name, number in how["versions"].items())])
        rows.append(["wall time", duration(how["seconds"])])
    if best:
        value = f"{measure(best['metric']).name} {measure(best['metric']).written(best['value'])}"
        which = ", averaged weights" if best["metric"].startswith(AVERAGED) else ""
        rows.append(["best checkpoint", f"step {best['step']:,}: {value}{which}"])
    rows.append(["last step", f"{finished['step']:,}" if finished else "the run is not finished"])
    return Table("How it ran", ["what", "value"], rows)


def duration(seconds: float | int) -> str:
    """A time as a reader says it: "48 s", "9 min 05 s", "3 h 20 min"."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def evaluation_table(lines: Sequence[LogLine]) -> list[Block]:
    """Every number of the last evaluation; nothing where there is only one, which the key numbers show."""
    _, evaluations = parted(lines)
    values = evaluations[-1]["evaluation"] if evaluations else {}
    keys = [key for key in values if not key.startswith(AVERAGED)]
    if len(keys) < 2:
        return []
    averaged = any(AVERAGED + key in values for key in keys)
    header = ["measure", "trained weights", *(["averaged weights"] if averaged else [])]
    rows = [
        [
            measure(key).name,
            *(measure(key).written(values.get(mark + key)) for mark in ("", AVERAGED)[: 1 + averaged]),
        ]
        for key in keys
    ]
    return [Table(f"Evaluation after step {evaluations[-1]['step']:,}", header, rows)]


def failure_blocks(failures: Sequence[LogLine]) -> list[Block]:
    """The videos that could not be read; nothing where all could."""
    if not failures:
        return []
    rows = [[line["path"], str(line["row"]), line["reason"]] for line in failures[:SHOWN_FAILURES]]
    more = f" The first {len(rows)} are shown." if len(failures) > len(rows) else ""
    caption = f"In training each was replaced by another video and recorded.{more}"
    title = f"{count(len(failures), 'video')} could not be read"
    return [Table(title, ["video", "row", "why"], rows, caption, folded=len(rows) > 10)]


def settings_table(settings: Any) -> Table:
    """Every setting of a run; those that differ from the defaults of its command are starred."""
    changed = {each.key for each in config.differences(type(settings)(), settings)}
    rows = [
        [f"{key} *" if key in changed else key, _shown(value)]
        for key, value in config.flatten(settings).items()
    ]
    caption = "* differs from the default."
    return Table("Settings", ["key", "value"], rows, caption, folded=True)


def _subtitle(settings: Any) -> str:
    """The network and its data, as far as the settings name them."""
    values = config.flatten(settings)
    parts = [str(values.get("model.name", ""))]
    if "model.num_frames" in values and "model.size" in values:
        size = values["model.size"]
        parts.append(f"{values['model.num_frames']} frames of {size}x{size}")
    network = ", ".join(part for part in parts if part)
    data = f"trained on {values['data.train']}" if values.get("data.train") else ""
    return "; ".join(part for part in (network, data) if part)


def _shown(value: Any) -> str:
    if value == "":
        return "(empty)"
    listed = isinstance(value, list | tuple | bool) or dataclasses.is_dataclass(value)
    return json_text(value) if listed else str(value)


SHOWN_CLASSES = 30
"""Tables of more classes are folded: the page goes on below them."""
MOST_CONFUSED = 10
"""Pairs of classes listed as most often confused."""
FITTING = 12
"""Confusion matrices of up to so many classes fit a phone; larger ones are scrolled there."""


def write_evaluation_report(evaluation: Evaluation, out: str | Path) -> Path:
    """Write report.html into the folder `out`; returns its path."""
    subtitle = f"{evaluation.weights} on {evaluation.data}, {evaluation.views[0]}x{evaluation.views[1]} views"
    return write_page(Page("Evaluation", subtitle, evaluation_blocks(evaluation)), Path(out) / "report.html")


def evaluation_blocks(evaluation: Evaluation) -> list[Block]:
    """Key numbers, the confusion matrix, tables by class and by confusion, and the videos that failed."""
    names = evaluation.class_names
    blocks: list[Block] = [
        _numbers(evaluation),
        confusion_figure(evaluation.confusion, names),
        class_table(evaluation.classes, names, folded=len(names) > SHOWN_CLASSES),
        *confused_table(evaluation.confusion, names),
    ]
    if evaluation.failures:
        rows = [[failure.path, str(failure.row), failure.reason] for failure in evaluation.failures]
        blocks.append(
            Table(f"Failed, counted as wrong: {count(len(rows), 'video')}", ["video", "row", "why"], rows)
        )
    return blocks


def confusion_blocks(folder: Path) -> list[Block]:
    """What the last evaluation of a fine-tuning run took for what; nothing where it had none."""
    path = folder / CONFUSIONS
    if not path.is_file():
        return []
    kept = json.loads(path.read_text(encoding="utf-8"))
    counts = torch.tensor(kept["counts"], dtype=torch.int64)
    where = "Of the last evaluation, one centre view of each validation video."
    return [confusion_figure(counts, kept["names"], where), *confused_table(counts, kept["names"])]


def confusion_figure(counts: Int[Tensor, "K K"], names: Sequence[str], where: str = "") -> Figure:
    """A confusion matrix with its caption, and in words; `where` says of what it is."""
    right, total = int(counts.diagonal().sum()), int(counts.sum())
    worst = "; ".join(
        f"{true} taken for {guess} {n} times" for true, guess, n in _confused(counts, names)[:3]
    )
    alt = f"{len(names)} classes; {right:,} of {total:,} videos are on the diagonal" + (
        worst and f"; {worst}"
    )
    caption = "Each row is a true class: the stronger a cell, the larger its share of the row."
    if len(names) <= charts.COUNTED_CLASSES:
        caption += " Numbers are videos."
    svg = charts.confusion_matrix(counts, names)
    return Figure("Confusion matrix", svg, alt, f"{where} {caption}".strip(), half=len(names) <= FITTING)


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


def confused_table(counts: Int[Tensor, "K K"], names: Sequence[str]) -> list[Block]:
    """The pairs of classes that were most often confused; nothing where none was."""
    rows = [[true, guess, str(n)] for true, guess, n in _confused(counts, names)]
    return [Table("Most often confused", ["true", "predicted", "videos"], rows)] if rows else []


def _confused(counts: Int[Tensor, "K K"], names: Sequence[str]) -> list[tuple[str, str, int]]:
    """The off-diagonal pairs with the most videos: true class, predicted class, how many."""
    wrong = counts.clone().fill_diagonal_(0)
    best = wrong.flatten().sort(descending=True, stable=True)
    pairs = zip(best.values[:MOST_CONFUSED].tolist(), best.indices[:MOST_CONFUSED].tolist(), strict=True)
    size = len(counts)
    return [(names[place // size], names[place % size], n) for n, place in pairs if n > 0]
