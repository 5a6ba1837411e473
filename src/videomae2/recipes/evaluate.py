"""Evaluate a classifier over several views of each video; every listed row counts in the denominator."""

import csv
import io
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from videomae2.bounds import shown
from videomae2.config import check, flatten, with_absolute_paths
from videomae2.engine import launch, parallel
from videomae2.engine.device import choose_device, keep_freed_memory, precision_note
from videomae2.engine.progress import say
from videomae2.errors import UserError
from videomae2.files import encoded, json_text, replacing
from videomae2.heads.classify import Classifier, gather_scores, score_views
from videomae2.metrics.accuracy import Accuracy, ClassScore, ViewScores
from videomae2.models.cpu import for_inference
from videomae2.recipes.feed import EvaluationFeed, evaluation_feed
from videomae2.recipes.weights import Trained, read_classifier, sampling_as_trained
from videomae2.records import Failure
from videomae2.settings import EvaluateSettings

TABLE_CLASSES = 40
"""Up to this many classes the per-class table is printed."""

SUMMARY = "summary.json"
"""The file by which an evaluation's folder is known."""

FAILURES_TOLD = 5
"""Unreadable videos that are printed, at most."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    confusion: counts [K, K], true class by predicted class. class_names: one for each class. scores: the
    softmax of every view by row. views: (clips, crops) of each video. weights, data: the names that were
    evaluated.
    """

    accuracy: Accuracy
    classes: tuple[ClassScore, ...]
    confusion: Int[Tensor, "K K"]
    class_names: tuple[str, ...]
    failures: tuple[Failure, ...]
    scores: ViewScores
    views: tuple[int, int]
    weights: str
    data: str

    def summary(self) -> dict[str, Any]:
        """The key numbers as plain JSON; shares are in [0, 1], top5 is None with fewer than five classes."""
        accuracy = self.accuracy
        # `listed` is the denominator and counts unreadable videos; `evaluated` and `failed` say how far the
        # shares are measured and how far they are a lower bound.
        shares = {"top1": accuracy.top1, "top5": accuracy.top5, "mean_class": accuracy.mean_class}
        counts = {"evaluated": accuracy.evaluated, "failed": accuracy.failed, "listed": accuracy.listed}
        return {
            **shares,
            **counts,
            "views": "x".join(map(str, self.views)),
            "weights": self.weights,
            "data": self.data,
        }

    def __str__(self) -> str:
        """The per-class table if it is short, unreadable videos, and the key numbers as the last line."""
        return "\n".join(
            [*self._table(), *told(self.failures), f"{self.accuracy}; {self.views[0]}x{self.views[1]} views"]
        )

    def _table(self) -> list[str]:
        if len(self.classes) > TABLE_CLASSES:
            return [
                f"{len(self.classes)} classes: with --out, their table is in per_class.csv and report.html"
            ]
        width = max(len(name) for name in (*self.class_names, "class"))
        lines = [f"{'class':<{width}}  listed  failed   right   top-1"]
        for each in self.classes:
            share = "    n/a" if each.accuracy is None else f"{100 * each.accuracy:5.1f} %"
            lines.append(
                f"{self.class_names[each.label]:<{width}}  {each.listed:6}  {each.failed:6}  {each.right:6}  "
                f"{share}"
            )
        return lines


def told(failures: Sequence[Failure]) -> list[str]:
    """A line for each of the first `FAILURES_TOLD` unreadable videos, and one that counts the rest."""
    lines = [
        f"row {each.row}, {each.path}, could not be read: {each.reason}" for each in failures[:FAILURES_TOLD]
    ]
    more = len(failures) - len(lines)
    if more > 0:
        lines.append(f"... and {more} more (with --out, scores.jsonl and report.html name all)")
    if lost := sum(each.kind == "transport" for each in failures):
        lines.append(f"{lost} of these could not be reached: evaluate again when the way to them works")
    return lines


def evaluate_classifier(
    classifier: Classifier,
    feed: EvaluationFeed,
    *,
    class_names: tuple[str, ...] = (),
    names_from: str = "",
    weights: str = "",
    match: str = "names",
    views_per_forward: int = 0,
) -> Evaluation:
    """Score every view, average the softmax over each row's views, and compute accuracies.

    Collective: every rank scores its own rows and returns the result for all. `class_names` are the model's,
    by which the labels of a manifest with names are matched. UserError for labels that the classifier does
    not have.
    """
    count = classifier.num_classes
    scores = ViewScores(feed.labels(class_names, count, match, names_from), count)
    score_views(classifier, feed, scores, views_per_forward=views_per_forward)
    scores = gather_scores(scores)
    # Names for a different number of classes would label the wrong rows; numbers are at least true.
    names = class_names or tuple(feed.manifest.class_names)
    if len(names) != classifier.num_classes:
        names = tuple(str(number) for number in range(classifier.num_classes))
    # By row, so that the result does not depend on which rank scored what, or when.
    failures = tuple(scores.failures[row] for row in sorted(scores.failures))
    table = tuple(scores.per_class())
    return Evaluation(
        scores.accuracy(),
        table,
        scores.confusion(),
        names,
        failures,
        scores,
        feed.views,
        weights,
        feed.data.val,
    )


def run_evaluation(settings: EvaluateSettings) -> Evaluation:
    """Evaluate the weights `settings.weights` on the videos of `settings.data.val`.

    With `settings.out`, writes summary.json, per_class.csv, confusion.csv and scores.jsonl (one line a
    manifest row) there. Processes that torchrun or srun started share the rows, and each returns the whole
    result. UserError, on all of them, for settings, weights or videos that cannot be evaluated.
    """
    check(settings)
    launch.join(settings.device)
    if not settings.weights:
        raise UserError(
            "expected weights to evaluate, got none; name a run, a file or a hub name with --weights"
        )
    if settings.out:
        parallel.on_main(lambda: must_be_free(Path(settings.out), settings))
    loaded, feed = parallel.together(lambda: _prepared(settings))
    evaluation = evaluate_classifier(
        for_inference(loaded.module, settings.precision),
        feed,
        class_names=loaded.checkpoint.class_names,
        names_from=loaded.checkpoint.names_origin,
        weights=settings.weights,
        match=settings.match,
        views_per_forward=settings.views_per_forward,
    )
    _must_have_scores(evaluation, settings.weights)
    # Every rank has the same evaluation by now; one of them writes it.
    if settings.out:
        parallel.on_main(lambda: write_evaluation(evaluation, feed, Path(settings.out), settings))
    return evaluation


def _prepared(settings: EvaluateSettings) -> tuple[Trained[Classifier], EvaluationFeed]:
    """The network, and the views that it is shown."""
    device = choose_device(settings.device)
    # Before the weights are read, since it holds for memory that is allocated afterwards.
    if device.type == "cpu":
        keep_freed_memory()
    loaded = read_classifier(settings.weights, settings.use_ema, device)
    say(str(loaded.report))
    if note := precision_note(device, settings.precision, "--precision"):
        say(note)
    # After the weights: the sampling of the clips follows what they were trained with.
    data = sampling_as_trained(settings, loaded.checkpoint.metadata.get("data", {}))
    views = (data.test_clips, data.test_crops)
    return loaded, evaluation_feed(data, loaded.settings, views, settings.batch_size, settings.device)


def must_be_free(out: Path, settings: EvaluateSettings) -> None:
    """UserError unless `out` is new, empty, or has an evaluation with the same settings."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise UserError(
            f"expected a folder to write the evaluation into, got the file {out}; give another --out"
        )
    if (out / "config.toml").exists():
        raise UserError(
            f"{out} holds a training run, whose report an evaluation would replace; give another --out, such "
            "as "
            f"{out / 'evaluate'}"
        )
    try:
        there = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        asked, before = _asked(settings), there["settings"]
        differs = [key for key in asked if before.get(key) != asked[key]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{out} is not empty and holds no evaluation; give another --out, or empty it"
        ) from None
    if differs:
        key = differs[0]
        raise UserError(
            f"{out} holds another evaluation: expected {key} {shown(before.get(key))}, got "
            f"{shown(asked[key])}; give another --out"
        )


HOW_IT_RUNS = frozenset(
    {
        "out", "device", "batch_size", "views_per_forward", "data.workers", "data.max_seconds",
        "data.retries",
    }
)  # fmt: skip
"""Settings that change no number of an evaluation, or hardly one."""


def _asked(settings: EvaluateSettings) -> dict[str, Any]:
    """The settings that say what an evaluation is, by name, as JSON has them; paths from the root."""
    kept = flatten(with_absolute_paths(settings)).items()
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in kept
        if key not in HOW_IT_RUNS
    }


def _must_have_scores(evaluation: Evaluation, weights: str) -> None:
    """UserError where no video has scores: 0 % would look like a network that is always wrong."""
    accuracy = evaluation.accuracy
    if accuracy.evaluated:
        return
    if evaluation.failures:
        raise UserError(
            f"expected videos to evaluate, got {accuracy.listed} of which none could be read; "
            f"{told(evaluation.failures)[0]}; mend the paths or --data.root (videomae2 data check names all)"
        )
    raise UserError(
        f"expected finite scores, got NaN or infinity for all {accuracy.listed} videos: the weights "
        f"{weights} "
        "are broken; try an earlier checkpoint"
    )


def write_evaluation(
    evaluation: Evaluation, feed: EvaluationFeed, out: Path, settings: EvaluateSettings
) -> None:
    """Write an evaluation as JSON and CSV into `out`: all of its files, or, where the disk is full, none.

    `settings` are kept beside the numbers: by them a later evaluation knows whether it is the same.
    """
    names = evaluation.class_names
    summary = {**evaluation.summary(), "settings": _asked(settings)}
    header = ["class", "name", "listed", "failed", "right", "right_top5"]
    rows = [[c.label, names[c.label], c.listed, c.failed, c.right, c.right5] for c in evaluation.classes]
    counts = [[name, *line] for name, line in zip(names, evaluation.confusion.tolist(), strict=True)]
    lines = (json_text(line) for line in score_lines(evaluation, feed))
    files = {
        # By this one the folder is known, so it takes its place last: a stack is left from its end.
        SUMMARY: json_text(summary, 2) + "\n",
        "per_class.csv": _csv([header, *rows]),
        "confusion.csv": _csv([["true \\ predicted", *names], *counts]),
        "scores.jsonl": "".join(f"{line}\n" for line in lines),
    }
    with ExitStack() as stack:
        for name, text in files.items():
            stack.enter_context(replacing(out / name)).write_bytes(encoded(text))


def score_lines(evaluation: Evaluation, feed: EvaluationFeed) -> list[dict[str, Any]]:
    """One object a manifest row: its path and label, and either its scores or the reason it has none."""
    rows, means = evaluation.scores.scored()
    _, best = evaluation.scores.predicted()
    num_views = evaluation.scores.seen.sum(1).tolist()
    # Rows with a score that is not finite are in neither `rows` nor the failures: they count as wrong.
    found = {row: (int(winner), mean) for row, winner, mean in zip(rows.tolist(), best, means, strict=True)}
    lines = []
    for row, label in enumerate(evaluation.scores.labels.tolist()):
        line = {"row": row, "path": feed.manifest.row(row).path, "label": label}
        if row in found:
            winner, mean = found[row]
            line |= {
                "predicted": winner,
                "views": num_views[row],
                # fp32 has about seven digits; more would only make the file larger.
                "scores": [round(s, 6) for s in mean.tolist()],
            }
        else:
            failure = evaluation.scores.failures.get(row)
            line |= {"failed": failure.reason if failure else "the network's scores are not finite"}
            line |= {"kind": failure.kind} if failure else {}
        lines.append(line)
    return lines


def _csv(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
