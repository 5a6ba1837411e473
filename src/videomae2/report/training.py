"""report.html of a run: what was reached, how the loss fell, what the network rebuilds, what was set, what
failed.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videomae2 import config
from videomae2.api.model import load
from videomae2.data.tables.manifest import read_listed
from videomae2.engine.log import read_lines
from videomae2.errors import UserError
from videomae2.recipes.tasks import run_settings
from videomae2.recipes.weights import WEIGHTS
from videomae2.report import charts
from videomae2.report.page import Block, Figure, Note, Numbers, Page, Table, count, write_page
from videomae2.settings import FinetuneSettings, PretrainSettings

REPORT = "report.html"
SHOWN_VIDEOS = 3
"""Videos reconstructed for the report of a pre-training run."""

TITLES = {PretrainSettings: "Pre-training", FinetuneSettings: "Fine-tuning"}


def write_run_report(folder: str | Path) -> Path:
    """Write report.html into a run's folder from what lies there; the path comes back. UserError: no run
    there.
    """
    folder = Path(folder)
    settings = run_settings(folder)
    title = f"{TITLES[type(settings)]}: {folder.resolve().name}"
    network = f"{settings.model.name}, {settings.model.num_frames} frames of {settings.model.size}x{settings.model.size}"
    return write_page(
        Page(title, f"{network}; trained on {settings.data.train}", run_blocks(folder)), folder / REPORT
    )


def run_blocks(folder: str | Path) -> list[Block]:
    """The blocks of a run's report, for pages that show several runs."""
    folder = Path(folder)
    settings = run_settings(folder)
    lines = read_lines(folder / "metrics.jsonl")
    blocks: list[Block] = [_numbers(lines), *curve_blocks(lines)]
    if isinstance(settings, PretrainSettings) and (folder / WEIGHTS).is_file():
        blocks += reconstruction_blocks(folder, some_videos(settings))
    blocks += failure_blocks(read_lines(folder / "failures.jsonl"))
    return [*blocks, _settings_table(settings)]


def curve_blocks(lines: Sequence[dict[str, Any]]) -> list[Block]:
    """Curves of the training loss, the evaluations, and the learning rate with the gradient norm."""
    train = [line for line in lines if "evaluation" not in line]
    evaluations = [line for line in lines if "evaluation" in line]
    blocks: list[Block] = []
    loss = {"training": series(train, "loss")} | {
        name: curve
        for name, key in (("validation", "loss"), ("validation, averaged weights", "ema_loss"))
        if (curve := series(evaluations, key))[0]
    }
    if loss["training"][0]:
        caption = "Each point is the mean since the point before."
        caption += " The strong line is smoothed." if len(loss["training"][0]) > charts.NOISY else ""
        blocks.append(Figure("Loss", charts.curves(loss, "step", "loss"), caption))
    accuracy = {
        name: ([*curve[0]], [100 * value for value in curve[1]])
        for name, key in (("top-1", "top1"), ("top-5", "top5"), ("top-1, averaged weights", "ema_top1"))
        if (curve := series(evaluations, key))[0]
    }
    if accuracy:
        caption = "One centre view of each video. A video that could not be read counts as wrong."
        blocks.append(Figure("Validation accuracy", charts.curves(accuracy, "step", "accuracy, %"), caption))
    for title, key, unit in (
        ("Learning rate", "lr", "learning rate"),
        ("Gradient norm", "grad_norm", "norm before clipping"),
    ):
        curve = series(train, key)
        if curve[0]:
            blocks.append(Figure(title, charts.curves({title: curve}, "step", unit)))
    return blocks


def series(lines: Sequence[dict[str, Any]], key: str) -> charts.Curve:
    """Steps and values of one logged number, from training lines or from evaluations; lines without it are
    left out.
    """
    found = [(line["step"], line.get("evaluation", line).get(key)) for line in lines]
    kept = [(step, value) for step, value in found if value is not None]
    return [step for step, _ in kept], [value for _, value in kept]


def reconstruction_blocks(weights: str | Path, videos: Sequence[str | Path], seed: int = 0) -> list[Block]:
    """Original, what the encoder saw, and the reconstruction of some videos; unreadable ones are left out."""
    model = load(str(weights), device="cpu")
    blocks: list[Block] = []
    for video in videos:
        try:
            found = model.reconstruct(video, seed)
        except UserError:
            continue
        png = charts.picture_png(found.strip(8, at_least=96))
        blocks.append(
            Figure(
                f"Reconstruction of {Path(video).name}", png, f"Loss on the hidden cubes: {found.error:.3f}."
            )
        )
    if not blocks:
        return []
    text = "Rows: the clip, what the encoder saw of it, and what the decoder made of that."
    if model.normalize != "none":
        text += (
            " Targets were normalised cube by cube, so a prediction says the pattern of a cube; "
            "its mean and contrast are taken from the true one."
        )
    return [Note("What the network rebuilds", text), *blocks]


def some_videos(settings: Any) -> list[str]:
    """Paths of a few videos, evenly spread: of the validation manifest if there is one, else of the training
    manifest.
    """
    manifest = read_listed(settings.data.val or settings.data.train, settings.data)
    shown = min(SHOWN_VIDEOS, len(manifest))
    rows = [manifest.row(number * len(manifest) // shown) for number in range(shown)]
    return [row.path for row in rows if not row.pattern]


def failure_blocks(failures: Sequence[dict[str, Any]]) -> list[Block]:
    """The videos that could not be read; nothing where all could."""
    if not failures:
        return []
    rows = [[line["path"], str(line["row"]), line["reason"]] for line in failures[:200]]
    more = f" The first {len(rows)} are shown." if len(failures) > len(rows) else ""
    caption = f"In training each was replaced by another video and recorded.{more}"
    title = f"{count(len(failures), 'video')} could not be read"
    return [Table(title, ["video", "row", "why"], rows, caption, folded=len(rows) > 10)]


def _numbers(lines: Sequence[dict[str, Any]]) -> Numbers:
    """What the last lines say."""
    train = [line for line in lines if "evaluation" not in line]
    last = train[-1] if train else {}
    evaluation: dict[str, float] = next(
        (line["evaluation"] for line in reversed(lines) if "evaluation" in line), {}
    )
    items = [("steps", f"{last['step']:,}"), ("epochs", f"{last['epoch']:.4g}")] if last else [("steps", "0")]
    if last.get("loss") is not None:
        items.append(("training loss", f"{last['loss']:.4f}"))
    for key, name in (
        ("loss", "validation loss"),
        ("top1", "validation top-1"),
        ("ema_top1", "top-1, averaged weights"),
    ):
        if key in evaluation:
            items.append(
                (name, f"{evaluation[key]:.4f}" if key == "loss" else f"{100 * evaluation[key]:.1f} %")
            )
    if train:
        speeds = sorted(line["clips_per_second"] for line in train)
        items.append(("clips a second, median", f"{speeds[len(speeds) // 2]:.1f}"))
    return Numbers(items)


def _settings_table(settings: Any) -> Table:
    changed = {each.key for each in config.differences(type(settings)(), settings)}
    rows = [
        [f"{key} *" if key in changed else key, _shown(value)]
        for key, value in config.flatten(settings).items()
    ]
    return Table(
        "Settings", ["key", "value"], rows, "* differs from the default (the paper's recipe).", folded=True
    )


def _shown(value: Any) -> str:
    return (
        json.dumps(value)
        if isinstance(value, list | tuple | bool) or dataclasses.is_dataclass(value)
        else str(value)
    )
