"""report.html of a training run: what was reached, how the numbers moved, what failed, what was set.

It knows no task. A title and the number that matters come from the task's row, what else was measured from
the names in the log, and what only one task can show, such as reconstructions, comes in as blocks.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videomae2 import config
from videomae2.engine.log import read_lines
from videomae2.engine.run import Metric
from videomae2.recipes.tasks import TASKS, run_settings, task_of
from videomae2.report.curves import AVERAGED, LogLine, curve_blocks, measure, parted
from videomae2.report.page import Block, Numbers, Page, Table, count, write_page

REPORT = "report.html"
SHOWN_FAILURES = 200
"""Videos that could not be read and are listed; failures.jsonl names all."""


def write_run_report(folder: str | Path, blocks: Sequence[Block] = ()) -> Path:
    """Write report.html into a run's folder, from its settings and its log; returns the path.

    `blocks` are what its task has to show beside them. UserError: `folder` holds no run, or one of no task in
    the table.
    """
    folder = Path(folder)
    settings = run_settings(folder)
    row = TASKS[task_of(settings)]
    lines = read_lines(folder / "metrics.jsonl")
    content = [
        key_numbers(lines, row.best),
        *curve_blocks(lines),
        *evaluation_table(lines),
        *blocks,
        *failure_blocks(read_lines(folder / "failures.jsonl")),
        settings_table(settings),
    ]
    page = Page(f"{row.title}: {folder.resolve().name}", _subtitle(settings), content)
    return write_page(page, folder / REPORT)


def key_numbers(lines: Sequence[LogLine], best: Metric) -> Numbers:
    """Where the run stands: its last training line, and the number by which its checkpoints are compared."""
    train, evaluations = parted(lines)
    last = train[-1] if train else {}
    items = [("steps", f"{last.get('step', 0):,}")]
    if "epoch" in last:
        items.append(("epochs", f"{last['epoch']:.4g}"))
    if last.get("loss") is not None:
        items.append(("training loss", f"{last['loss']:.4f}"))
    items += _judged(evaluations, best)
    if train:
        speeds = sorted(line["clips_per_second"] for line in train)
        items.append(("clips a second, median", f"{speeds[len(speeds) // 2]:.1f}"))
    if last.get("skipped"):
        items.append(("steps skipped as not finite", f"{last['skipped']:,}"))
    return Numbers(items)


def _judged(evaluations: Sequence[LogLine], best: Metric) -> list[tuple[str, str]]:
    """The last value of the number that matters, of either weights, and the best one if that is older."""
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
    if step != evaluations[-1]["step"]:
        items.append((f"best {row.name}, step {step:,}", row.written(value)))
    return items


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
    return json.dumps(value) if listed else str(value)
