"""What a quickstart found, as its report.html and its summary.json tell it."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from videomae2.api import views
from videomae2.api.model import Prediction, load
from videomae2.api.views import SHOWN_FRAMES, SHOWN_HEIGHT, load_video, reconstruction_blocks
from videomae2.engine.log import read_metrics
from videomae2.quickstart import plan
from videomae2.recipes.evaluate import Evaluation
from videomae2.report import charts
from videomae2.report.charts import percent, series
from videomae2.report.page import Block, Figure, Note, Numbers, Page, Strips, Table, write_page
from videomae2.report.training import class_table

ARMS = {
    "pretrained": "pre-trained, then fine-tuned",
    "scratch": "from scratch, same budget",
    "shuffled": "control: fine-tuned and tested on shuffled frames",
    "pretrained, tested shuffled": "control: the first network, tested on shuffled frames",
}
"""The arms of the comparison in a reader's words, by their names in summary.json."""


@dataclass(frozen=True)
class Outcome:
    """What the quickstart found: runs, evaluations by arm, and what became of a few held-out videos."""

    runs: dict[str, Path]
    """The pre-training run, then the supervised run of each arm that trains."""
    evaluations: dict[str, Evaluation]
    shown: list[Path]
    """Held-out videos for pictures; the first one, of class `truth`, was predicted."""
    truth: str
    predictions: list[Prediction]
    seconds: dict[str, float]
    """Wall time of each stage."""
    seed: int

    @property
    def example(self) -> Path:
        """The video that was predicted."""
        return self.shown[0]

    @property
    def top1(self) -> dict[str, float]:
        """Top-1 of each arm, a share in [0, 1]."""
        return {name: found.accuracy.top1 for name, found in self.evaluations.items()}

    def summary(self) -> dict[str, Any]:
        """The key numbers, as summary.json holds them; shares are in [0, 1]."""
        classes = len(self.evaluations["pretrained"].class_names)
        return {
            "top1": {name: round(value, 4) for name, value in self.top1.items()},
            "chance": round(1 / classes, 4),
            "margin_over_scratch": round(self.top1["pretrained"] - self.top1["scratch"], 4),
            "videos": {"unlabelled": plan.UNLABELLED, "labelled": plan.LABELLED, "held_out": plan.HELD_OUT},
            "views": self.evaluations["pretrained"].summary()["views"],
            "prediction": {
                "video": str(self.example),
                "truth": self.truth,
                "top": [vars(each) for each in self.predictions],
            },
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "seed": self.seed,
        }


def write_quickstart_report(outcome: Outcome, path: Path) -> Path:
    """Write the page: what pre-training was worth, how runs went, what the network rebuilds and confuses."""
    subtitle = "Sprites that differ only in how they move: pre-train, fine-tune, evaluate, and compare"
    best = outcome.evaluations["pretrained"]
    matrix = charts.confusion_matrix(best.confusion, best.class_names)
    blocks = [
        *_comparison(outcome),
        *_curves(outcome),
        *reconstruction_blocks(load(outcome.runs["pretrain"], device="cpu").reconstruct, outcome.shown),
        Figure("Confusion matrix", matrix, "Fine-tuned after pre-training."),
        class_table(best.classes, best.class_names),
        _example(outcome),
        _times(outcome),
    ]
    return write_page(Page("VideoMAE V2 quickstart", subtitle, blocks), path)


def _comparison(outcome: Outcome) -> list[Block]:
    top1, summary = outcome.top1, outcome.summary()
    level = summary["chance"]
    numbers = [
        ("fine-tuned after pre-training", percent(top1["pretrained"])),
        ("from scratch", percent(top1["scratch"])),
        ("shuffled frames", percent(top1["shuffled"])),
        ("chance", percent(level)),
    ]
    values = {fill(ARMS[name], 22): 100 * value for name, value in top1.items()}
    videos = summary["videos"]
    text = (
        f"One network, {videos['unlabelled']} videos without labels to pre-train on, {videos['labelled']} "
        f"with labels to fine-tune on, {videos['held_out']} to test on, {summary['views']} views each; one "
        f"run, seed {outcome.seed}. Every arm is trained for as many steps on the same labels, and the one "
        "from scratch starts from the weights that pre-training started from. A still frame says nothing "
        "about the class. The set of all frames says which axis the motion is on, and no more: slow sprites "
        "cross the picture once, fast ones three times, through the same places. So shuffled frames are "
        f"worth {percent(2 * level, 0)} at most, beyond luck."
    )
    return [
        Numbers(numbers),
        Note("What is compared", text),
        Figure("Accuracy", charts.bars(values, "top-1, %", {"chance": 100 * level})),
        Table("Top-1", ["arm", "top-1"], [[ARMS[name], percent(value)] for name, value in top1.items()]),
    ]


def _curves(outcome: Outcome) -> list[Block]:
    lines = {name: read_metrics(run / "metrics.jsonl") for name, run in outcome.runs.items()}
    pretraining = series(lines.pop("pretrain"), "loss", "pre-training")
    supervised = [series(found, "loss", ARMS[name]) for name, found in lines.items()]
    caption = (
        "Each point is the mean since the point before. The network starts from random weights. Targets are "
        "normalised cube by cube, so a loss near 1 is that of a prediction without any pattern."
    )
    return [
        Figure("Pre-training loss", charts.curves([pretraining], "step", "loss"), caption),
        Figure("Training loss with labels", charts.curves(supervised, "step", "cross-entropy")),
    ]


def _example(outcome: Outcome) -> Strips:
    model = plan.MODEL
    frames = load_video(
        outcome.example, num_frames=model.num_frames, stride=plan.PLAIN.stride, size=model.size
    )
    strip = views.strip(views.enlarge(frames, SHOWN_HEIGHT), SHOWN_FRAMES)
    found = f"Predicted: {', '.join(map(str, outcome.predictions))}. True class: {outcome.truth}."
    title = f"Prediction for {outcome.example.name}"
    return Strips(title, [("", charts.picture_png(strip))], found)


def _times(outcome: Outcome) -> Table:
    rows = [[name.replace("_", " "), f"{seconds:.0f} s"] for name, seconds in outcome.seconds.items()]
    return Table("Time", ["stage", "wall time"], rows, "On this machine.", folded=True)
