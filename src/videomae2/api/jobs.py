"""A recipe followed by its report: what the commands and the front door run."""

from collections.abc import Callable, Mapping
from math import log
from pathlib import Path
from typing import Any

from videomae2.api import threads_spin
from videomae2.api.model import load
from videomae2.api.views import reconstruction_blocks, some_videos
from videomae2.config import resolve
from videomae2.data.tables.manifest import read_listed
from videomae2.data.windows import Cutting
from videomae2.engine import parallel
from videomae2.engine.device import choose_device
from videomae2.engine.progress import progress, say
from videomae2.errors import UserError
from videomae2.recipes.detect import HARDEST
from videomae2.recipes.evaluate import Evaluation, run_evaluation
from videomae2.recipes.extract import Extraction, extract, feature_names, fingerprint
from videomae2.recipes.tasks import TASKS, task_of
from videomae2.recipes.train import run_task
from videomae2.recipes.weights import read_weights
from videomae2.recipes.window_probe import WindowProbe, probe_windows
from videomae2.report.box_pictures import hardest_blocks
from videomae2.report.page import Block, Table
from videomae2.report.training import confusion_blocks, write_evaluation_report, write_run_report
from videomae2.settings import (
    DataSettings,
    EvaluateSettings,
    FinetuneSettings,
    LocalizeSettings,
    PretrainSettings,
)


def train(settings: Any) -> Path:
    """Run the training task whose settings these are and write report.html; returns the run's folder.

    The same settings go on with an interrupted run. UserError: see `run_task`.
    """
    if (
        threads_spin
        and int(getattr(settings.data, "workers", 0)) > 0
        and choose_device(settings.run.device).type == "cpu"
    ):
        say(
            "note: torch was imported before videomae2, so its threads wait by spinning, which slows "
            "training beside loader processes; import videomae2 first, or set OMP_WAIT_POLICY=passive"
        )
    folder = run_task(settings)
    show = SHOWN_OF_KIND.get(TASKS[task_of(settings)].kind, _nothing)
    parallel.on_main(lambda: write_run_report(folder, *show(folder, settings)))
    return folder


Given = str | Path | None
"""A page of settings, or a run's folder to go on with, or nothing."""


def pretrain(settings: PretrainSettings | Given = None, /, *, preset: str = "", **given: Any) -> Path:
    """Pre-train and write report.html; returns the run's folder. As `train`.

    Settings are keywords, over a preset, over a page: `pretrain(train="clips/", out="runs/x", preset="tiny",
    length="30ep")`; `model={...}` and the like set several of a section. Or they come as one object.
    """
    return train(_asked(PretrainSettings, settings, preset, given))


def finetune(settings: FinetuneSettings | Given = None, /, *, preset: str = "", **given: Any) -> Path:
    """Fine-tune and write report.html; returns the run's folder. Settings as in `pretrain`."""
    return train(_asked(FinetuneSettings, settings, preset, given))


def evaluate(settings: EvaluateSettings | Given = None, /, *, preset: str = "", **given: Any) -> Evaluation:
    """Evaluate; with `out`, write scores, tables and report.html there. Settings as in `pretrain`."""
    asked = _asked(EvaluateSettings, settings, preset, given)
    evaluation = run_evaluation(asked)
    if asked.out:
        parallel.on_main(lambda: write_evaluation_report(evaluation, asked.out))
    return evaluation


def check_features(settings: LocalizeSettings) -> WindowProbe:
    """What windows show, told from their features alone; the settings are those of `localize-train`."""
    return probe_windows(settings)


def extract_features(  # noqa: PLR0917
    source: str,
    weights: str,
    out: str | Path,
    stride: int = 4,
    step: int = 1,
    batch_size: int = 8,
    released: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    root: str = "",
) -> Extraction:
    """Features of windows of each video of a manifest, list, folder or file: one file a video in `out`.

    A window shows as many frames as the network takes, `step` apart, and begins every `stride` frames.
    `released` squashes pictures to squares and leaves out mean and standard deviation, as the authors'
    extraction does. UserError: see `extract`.
    """
    model = load(weights, device=device, precision=precision)
    settings = model.settings
    cutting = Cutting(settings.num_frames, step, stride, settings.size, squash=released)
    rows = read_listed(source, DataSettings(root=root))
    videos = feature_names([rows.row(number).path for number in range(len(rows))])
    about = {
        "weights": str(weights),
        "weights_sha256": fingerprint(model.checkpoint.state),
        "precision": precision,
        "released": released,
    }
    with progress("extract", len(videos)) as shown:
        return extract(
            videos,
            model.pooled_unnormalised if released else model.pooled,
            cutting,
            about,
            Path(out),
            batch_size=batch_size,
            progress=shown.advance,
        )


def _asked(cls: type[Any], settings: Any, preset: str, given: Mapping[str, Any]) -> Any:
    """The settings of a call: an object as it is, else page, preset and keywords; keywords win."""
    if settings is None or isinstance(settings, str | Path):
        return resolve(cls, settings, (), preset, given).settings
    if type(settings) is not cls or preset or given:
        raise UserError(
            f"expected {cls.__name__}, or keywords such as train='clips/', got {type(settings).__name__}"
            + (
                " and keywords; change the object with dataclasses.replace"
                if preset or given
                else "; give one"
            )
        )
    return settings


Shown = tuple[list[Block], float | None]
"""What the report of a run shows beside its log, and the loss of a network that knows nothing."""


def _nothing(_folder: Path, _settings: Any) -> Shown:
    return [], None


def _reconstructions(folder: Path, settings: Any) -> Shown:
    # Normalised targets have mean 0 and variance 1 in each cube: to predict zeros costs 1.0.
    blank = None if settings.target.normalize == "none" else 1.0
    # On the CPU: the device may be full of what was trained, and three clips are soon done.
    return reconstruction_blocks(load(folder, device="cpu").reconstruct, some_videos(settings.data)), blank


def _detections(folder: Path, settings: Any) -> Shown:
    from videomae2.recipes.detections import measure_run

    if not settings.data.val:
        return [], None
    found, profile, names = measure_run(folder, settings)
    tables = (
        ("Average precision of each class", found.table(names), str(found)),
        (
            f"The best predictions by kind, at tIoU {profile.tiou:g}",
            profile.table(),
            "Of each class with N true segments, the N best predictions, the 2 N best, and so on: which "
            "share is right, and what the others are.",
        ),
    )
    blocks: list[Block] = [
        Table(title, list(rows[0]), [[_cell(value) for value in row.values()] for row in rows], caption)
        for title, rows, caption in tables
    ]
    return blocks, None


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _confusions(folder: Path, _settings: Any) -> Shown:
    # Whatever the smoothing and mixing of labels, equal scores for K classes cost the logarithm of K.
    return confusion_blocks(folder), log(read_weights(str(folder)).num_classes or 1)


def _hardest(folder: Path, _settings: Any) -> Shown:
    return hardest_blocks(folder / HARDEST), None


SHOWN_OF_KIND: dict[str, Callable[[Path, Any], Shown]] = {
    "pretrain": _reconstructions,
    "localizer": _detections,
    "classifier": _confusions,
    "detector": _hardest,
}
"""What the report of a run shows beside its log, by the kind of its weights (`TaskRow.kind`)."""
