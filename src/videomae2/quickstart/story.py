"""What a quickstart found, as its report.html and its summary.json tell it."""

from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, NamedTuple

from videomae2.api.model import Prediction, load
from videomae2.api.views import SHOWN_VIDEOS, frame_pngs, load_video, reconstruction_blocks
from videomae2.engine.log import read_metrics
from videomae2.metrics.accuracy import interval
from videomae2.quickstart import plan
from videomae2.recipes.evaluate import Evaluation
from videomae2.report import charts
from videomae2.report.charts import Level, percent
from videomae2.report.curves import figures, knows_nothing, series
from videomae2.report.page import (
    Block,
    Figure,
    Links,
    Note,
    Numbers,
    Page,
    Table,
    Verdict,
    Verdicts,
    write_page,
)
from videomae2.report.training import class_table, confusion_figure, duration

ARMS = {
    "pretrained": "pre-trained, then fine-tuned",
    "scratch": "from scratch, same budget",
    "shuffled": "control: fine-tuned and tested on shuffled frames",
    "pretrained, tested shuffled": "control: the first network, tested on shuffled frames",
}
"""The arms of the comparison in a reader's words, by their names in summary.json."""


@dataclass(frozen=True)
class Shown:
    """A held-out video, its class, and the best classes that the fine-tuned network named."""

    video: Path
    truth: str
    predictions: list[Prediction]

    @property
    def right(self) -> bool:
        """Whether the first class named is the true one."""
        return self.predictions[0].name == self.truth

    def summary(self) -> dict[str, Any]:
        """As plain JSON."""
        top = [vars(each) for each in self.predictions]
        return {"video": str(self.video), "truth": self.truth, "right": self.right, "top": top}


class Spent(NamedTuple):
    """Seconds on the clock, and of all processors together: twice as many where two cores were busy."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Outcome:
    """What the quickstart found: runs, evaluations by arm, and what became of a few held-out videos."""

    runs: dict[str, Path]
    """The pre-training run, then the supervised run of each arm that trains."""
    evaluations: dict[str, Evaluation]
    shown: list[Shown]
    """The first held-out videos, whose classes were predicted."""
    pages: dict[str, Path]
    """Reports of single runs and evaluations, by what they are of."""
    spent: dict[str, Spent]
    """Time of each stage."""
    seed: int

    @property
    def top1(self) -> dict[str, float]:
        """Top-1 of each arm, a share in [0, 1]."""
        return {name: found.accuracy.top1 for name, found in self.evaluations.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of each arm's top-1, from the number of test videos."""
        counts = {name: found.accuracy for name, found in self.evaluations.items()}
        return {name: interval(round(each.top1 * each.listed), each.listed) for name, each in counts.items()}

    @property
    def times(self) -> dict[str, Spent]:
        """Time of each stage, and of all."""
        total = Spent(*(sum(column) for column in zip(*self.spent.values(), strict=True)))
        return self.spent | {"total": total}

    def summary(self) -> dict[str, Any]:
        """The key numbers, as summary.json holds them; shares are in [0, 1]."""
        classes = len(self.evaluations["pretrained"].class_names)
        return {
            "top1": {name: round(value, 4) for name, value in self.top1.items()},
            "interval95": {name: [round(end, 4) for end in ends] for name, ends in self.intervals.items()},
            "chance": round(1 / classes, 4),
            "unordered_bound": round(plan.UNORDERED, 4),
            "margin_over_scratch": round(self.top1["pretrained"] - self.top1["scratch"], 4),
            "videos": {"unlabelled": plan.UNLABELLED, "labelled": plan.LABELLED, "held_out": plan.HELD_OUT},
            "views": self.evaluations["pretrained"].summary()["views"],
            "prediction": self.shown[0].summary(),
            "predictions": [each.summary() for each in self.shown],
            "seconds": {name: round(each.wall, 1) for name, each in self.times.items()},
            "cpu_seconds": {name: round(each.cpu, 1) for name, each in self.times.items()},
            "seed": self.seed,
        }


def write_quickstart_report(outcome: Outcome, path: Path) -> Path:
    """Write the page: what pre-training was worth, how runs went, what the network rebuilds and confuses."""
    subtitle = "Sprites that differ only in how they move: pre-train, fine-tune, evaluate, and compare"
    best = outcome.evaluations["pretrained"]
    videos = [each.video for each in outcome.shown[:SHOWN_VIDEOS]]
    where = "Of the network that was pre-trained, then fine-tuned, on the test videos."
    blocks = [
        *_comparison(outcome),
        _predictions(outcome),
        *_curves(outcome),
        *reconstruction_blocks(load(outcome.runs["pretrain"], device="cpu").reconstruct, videos),
        confusion_figure(best.confusion, best.class_names, where),
        class_table(best.classes, best.class_names),
        _links(outcome, path.parent),
        _times(outcome),
    ]
    return write_page(Page("VideoMAE V2 quickstart", subtitle, blocks), path)


def _comparison(outcome: Outcome) -> list[Block]:
    top1, summary = outcome.top1, outcome.summary()
    level = summary["chance"]
    numbers = [
        ("fine-tuned after pre-training", percent(top1["pretrained"])),
        ("from scratch", percent(top1["scratch"])),
        ("control: shuffled frames", percent(top1["shuffled"])),
        ("the most that unordered frames can say", percent(plan.UNORDERED)),
        ("chance", percent(level)),
    ]
    drawn = [charts.Bar(ARMS[name], value, outcome.intervals[name]) for name, value in top1.items()]
    levels = [
        Level(f"chance: {percent(level)}", level),
        Level(f"ideal observer of unordered frames: {percent(plan.UNORDERED)}", plan.UNORDERED),
    ]
    told = [
        f"{bar.name}: {percent(bar.value)}, interval {percent(bar.interval[0])} to {percent(bar.interval[1])}"
        for bar in drawn
    ]
    alt = "; ".join([*told, *(level.name for level in levels)])
    videos = summary["videos"]
    compared = (
        f"One network, {videos['unlabelled']:,} videos without labels to pre-train on, {videos['labelled']} "
        f"with labels to fine-tune on, {videos['held_out']} others to test on, {summary['views']} views "
        f"each; one run, seed {outcome.seed}. Every arm is trained for as many steps on the same labels, and "
        "the one from scratch starts from the weights that pre-training started from. It alone has no lower "
        "rates for early layers, which spare weights that are already good."
    )
    control = (
        "A still frame says nothing about the class: sprites of every class are at every place equally "
        "often. All frames of a clip in no order say which axis the motion is on, and no more: slow sprites "
        "cross the picture once, fast ones three times, through the same places. So an ideal observer of "
        f"unordered frames is right in {percent(plan.UNORDERED, 0)} of the videos. What a network reaches "
        "beyond that, luck and traces of the video compression aside, it has from the order of the frames."
    )
    caption = (
        f"The thin lines are 95 % intervals from {videos['held_out']} test videos. Another seed draws other "
        "videos and other weights, which these intervals do not cover."
    )
    return [
        Numbers(numbers),
        Figure("Accuracy", charts.bars(drawn, "top-1, %", levels), alt, caption, half=True),
        Note("What is compared", f"{compared}\n\n{control}"),
    ]


def _predictions(outcome: Outcome) -> Verdicts:
    """What the fine-tuned network says of the first test videos, right or wrong."""
    model = plan.MODEL
    cards = []
    for each in outcome.shown:
        frames = load_video(
            each.video, num_frames=model.num_frames, stride=plan.PLAIN.stride, size=model.size
        )
        cards.append(Verdict(frame_pngs(frames), str(each.predictions[0]), each.truth, each.right))
    right = sum(each.right for each in outcome.shown)
    caption = f"The first {len(cards)} test videos, not chosen: {right} right, {len(cards) - right} wrong."
    return Verdicts("Predictions", cards, caption)


def _curves(outcome: Outcome) -> list[Block]:
    lines = {name: read_metrics(run / "metrics.jsonl") for name, run in outcome.runs.items()}
    pretraining = series(lines.pop("pretrain"), "loss", "pre-training")
    supervised = [series(found, "loss", ARMS[name]) for name, found in lines.items()]
    flat = (
        "The network starts from random weights. Targets are normalised cube by cube: a prediction without "
        "any pattern costs about 1.0."
    )
    classes = len(plan.SPRITES.classes)
    guess = f"To give all {classes} classes the same score costs {log(classes):.2f}."
    return [
        *figures("Pre-training loss", [pretraining], "loss", flat, knows_nothing(1.0)),
        *figures(
            "Training loss with labels",
            supervised,
            "cross-entropy",
            guess,
            knows_nothing(log(classes)),
        ),
    ]


def _links(outcome: Outcome, folder: Path) -> Links:
    found = [
        (name, page.relative_to(folder).as_posix(), "")
        for name, page in outcome.pages.items()
        if page.is_file()
    ]
    return Links("Every run and evaluation has a page of its own", found)


def _times(outcome: Outcome) -> Table:
    rows = [[name.replace("_", " "), *map(duration, spent)] for name, spent in outcome.times.items()]
    caption = "On this machine. Of a stage that was interrupted, the start that finished it alone."
    return Table("Time", ["stage", "wall time", "CPU time"], rows, caption, folded=True)
