"""report.html of the quickstart: what pre-training was worth, how each run went, what the network rebuilds
and confuses.
"""

from pathlib import Path

from videomae2 import visualize
from videomae2.api.views import load_video
from videomae2.engine.log import read_lines
from videomae2.quickstart.outcome import Outcome
from videomae2.report import charts
from videomae2.report.evaluation import class_table
from videomae2.report.page import Block, Figure, Note, Numbers, Page, Table, write_page
from videomae2.report.training import reconstruction_blocks, series

ARMS = {
    "pretrained": "pre-trained, then fine-tuned",
    "scratch": "from scratch, same budget",
    "shuffled": "control: trained and tested on shuffled frames",
    "pretrained, tested shuffled": "control: first row, tested on shuffled frames",
}


def write_quickstart_report(outcome: Outcome, path: Path) -> Path:
    """Write the page; its path comes back."""
    subtitle = "Sprites that differ only in how they move: pre-train, fine-tune, evaluate, and compare"
    return write_page(Page("VideoMAE V2 quickstart", subtitle, _blocks(outcome)), path)


def _blocks(outcome: Outcome) -> list[Block]:
    best = outcome.evaluations["pretrained"]
    blocks = [*_headline(outcome), *_curves(outcome)]
    blocks += reconstruction_blocks(outcome.runs["pretrain"], outcome.shown)
    blocks.append(
        Figure(
            "Confusion matrix",
            charts.confusion_matrix(best.confusion, best.class_names),
            "Fine-tuned after pre-training.",
        )
    )
    blocks += [class_table(best.classes, best.class_names), _example(outcome), _times(outcome)]
    return blocks


def _headline(outcome: Outcome) -> list[Block]:
    top1, summary = outcome.top1, outcome.summary()
    chance = 100 * summary["chance"]
    items = [
        ("fine-tuned after pre-training", f"{100 * top1['pretrained']:.1f} %"),
        ("from scratch", f"{100 * top1['scratch']:.1f} %"),
        ("shuffled frames", f"{100 * top1['shuffled']:.1f} %"),
        ("chance", f"{chance:.1f} %"),
    ]
    bars = charts.bars(
        {name.replace(", ", ",\n"): 100 * value for name, value in top1.items()},
        "top-1, %",
        {"chance": chance},
    )
    rows = [[ARMS[name], f"{100 * value:.1f} %"] for name, value in top1.items()]
    videos = summary["videos"]
    text = (
        f"One network, {videos['unlabelled']} videos without labels to pre-train on, {videos['labelled']} "
        "with labels to "
        f"fine-tune on, {videos['held_out']} to test on, {summary['views']} views each; one run, seed "
        f"{outcome.seed}. Every arm "
        "is fine-tuned for as many steps on the same labels. A still frame says nothing about the class, "
        "and neither does the "
        "set of frames beyond the axis of the motion: slow sprites cross the picture once, fast ones three "
        "times, through the "
        f"same places. So whoever sees the frames in shuffled order can only guess."
    )
    return [
        Numbers(items),
        Note("What is compared", text),
        Figure("Accuracy", bars),
        Table("Top-1", ["arm", "top-1"], rows),
    ]


def _curves(outcome: Outcome) -> list[Block]:
    lines = {name: read_lines(run / "metrics.jsonl") for name, run in outcome.runs.items()}
    pretraining = charts.curves({"pre-training": series(lines.pop("pretrain"), "loss")}, "step", "loss")
    supervised = charts.curves(
        {ARMS[name]: series(found, "loss") for name, found in lines.items()}, "step", "cross-entropy"
    )
    caption = "Each point is the mean since the one before. The loss starts low because pre-training goes on from shipped weights."
    return [
        Figure("Pre-training loss", pretraining, caption),
        Figure("Training loss with labels", supervised),
    ]


def _example(outcome: Outcome) -> Figure:
    frames = visualize.enlarge(load_video(outcome.example, num_frames=16, stride=1, size=64), 96)
    best = f"Predicted: {', '.join(map(str, outcome.predictions))}. True class: {outcome.truth}."
    return Figure(
        f"Prediction for {outcome.example.name}", charts.picture_png(visualize.strip(frames, 8)), best
    )


def _times(outcome: Outcome) -> Table:
    rows = [[name.replace("_", " "), f"{seconds:.0f} s"] for name, seconds in outcome.seconds.items()]
    return Table("Time", ["stage", "wall time"], rows, "On this machine.", folded=True)
