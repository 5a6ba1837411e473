"""Every sentence of a quickstart's reports states a fact that is checked here; a new one needs a check."""

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from videomae2 import chance, config
from videomae2.api.model import load
from videomae2.api.views import load_video
from videomae2.data.sprites.scene import draw_video, track
from videomae2.data.tables.manifest import read_manifest
from videomae2.engine.step import StepSums
from videomae2.masking import count_tokens
from videomae2.metrics.accuracy import ViewScores, interval
from videomae2.models.build import build_autoencoder
from videomae2.quickstart import plan
from videomae2.recipes.feed import training_feed
from videomae2.recipes.pretrain import prepare_pretraining
from videomae2.recipes.tasks import run_settings
from videomae2.recipes.weights import read_weights
from videomae2.records import Failure
from videomae2.report import charts
from videomae2.targets import reconstruction_targets, soft_cross_entropy

STARTS = range(200)


def sentences(page: Path) -> set[str]:
    """The sentences of a page's paragraphs, with # for every number."""
    text = page.read_text("utf-8").split("</header>", 1)[1]
    paragraphs = re.findall(r"<p(?: class=\"caption\")?>(.*?)</p>", text, re.DOTALL)
    found = set()
    for paragraph in paragraphs:
        plain = html.unescape(re.sub(r"<[^>]+>", "", paragraph))
        if "✓" in plain or "✗" in plain:
            continue
        plain = re.sub(r"\d+x\d+|\d[\d,]*(\.\d+)?( %)?", "#", plain)
        found |= {each.strip() for each in re.split(r"(?<=[.:])\s+(?=[A-Z*])", plain) if each.strip()}
    return found


def settings_of(out: Path, name: str) -> dict[str, object]:
    return config.flatten(run_settings(out / name))


def places(action: str, start: int) -> np.ndarray:
    """The places of a sprite in a clip, as [T, 2]."""
    generator = np.random.default_rng(start)
    found = track(
        [action], [plan.MODEL.num_frames], generator, sizes=plan.SPRITES.sizes, beat=plan.SPRITES.beat[0]
    )
    return np.stack([found.x, found.y], 1)


# ---- what is compared


def the_numbers_are_those_of_the_plan(out: Path) -> None:
    rows = {
        name: len(read_manifest(out / "data" / name / "manifest.csv"))
        for name in ("unlabelled", "labelled", "held_out")
    }
    assert tuple(rows.values()) == (plan.UNLABELLED, plan.LABELLED, plan.HELD_OUT)
    text = (out / "report.html").read_text("utf-8")
    assert f"{plan.UNLABELLED:,} videos without labels to pre-train on, {plan.LABELLED} with labels" in text
    assert f"{plan.HELD_OUT} others to test on, 3x1 views each; one run, seed 0." in text
    assert (plan.PLAIN.test_clips, plan.PLAIN.test_crops) == (3, 1)


def arms_differ_in_start_and_order(out: Path) -> None:
    arms = {name: settings_of(out, f"finetune_{name}") for name in ("pretrained", "scratch", "shuffled")}
    for name, allowed in (
        ("scratch", {"init", "optim.base_lr", "optim.layer_decay"}),
        ("shuffled", {"data.frame_order"}),
    ):
        other = {key for key, value in arms[name].items() if arms["pretrained"][key] != value}
        assert other == allowed | {"run.out"}
    assert arms["scratch"]["optim.layer_decay"] == 1.0 > float(str(arms["pretrained"]["optim.layer_decay"]))
    settings = plan.pretraining(out / "data" / "unlabelled" / "manifest.csv", out / "pretrain", 0)
    feed = training_feed(settings.data, settings.model, settings.optim, settings.run, "pretrain")
    began = prepare_pretraining(settings, feed).task.network.state_dict()
    untrained = read_weights(str(out / "untrained.safetensors")).state
    assert set(untrained) <= set(began) and len(untrained) > 50
    assert all(torch.equal(began[name], tensor) for name, tensor in untrained.items())


def a_still_frame_says_nothing(_: Path) -> None:
    shown = {
        action: np.array([places(action, start)[7] for start in STARTS]) for action in ("left", "up_fast")
    }
    for found in shown.values():  # uniform: each quarter of the picture holds a quarter, within 4 deviations
        for quarter in range(4):
            share = (np.floor(found * 4) == quarter).mean(0)
            assert (abs(share - 0.25) < 4 * (0.25 * 0.75 / len(STARTS)) ** 0.5).all()
    # and other things follow from the number of the video alone, whatever its class
    swapped = replace(plan.SPRITES, classes=tuple(reversed(plan.SPRITES.classes)))
    one, other = (draw_video(settings, 0, 0).frames[0] for settings in (plan.SPRITES, swapped))
    assert torch.equal(one, other)


def unordered_frames_say_the_axis(_: Path) -> None:
    def unordered(action: str) -> tuple[tuple[float, ...], ...]:
        return tuple(sorted(map(tuple, places(action, 0).round(6).tolist())))

    seen = {action: unordered(action) for action in plan.SPRITES.classes}
    groups = {key: [name for name in seen if seen[name] == key] for key in seen.values()}
    assert sorted(map(sorted, groups.values())) == [
        ["down", "down_fast", "up", "up_fast"],
        ["left", "left_fast", "right", "right_fast"],
    ]
    swept = {
        name: abs(np.unwrap(places(name, 0) * 2 * np.pi, axis=0) / 2 / np.pi)
        for name in ("left", "left_fast")
    }
    # From the first frame to where the next would be: once, and three times, across.
    steps = {name: np.diff(found, axis=0)[:, 0] for name, found in swept.items()}
    assert [round(abs(steps[name][0]) * 16) for name in steps] == [1, 3]


def the_observer_guesses_among_four(_: Path) -> None:
    assert plan.UNORDERED == 2 / len(plan.SPRITES.classes) == 0.25
    settings = plan.SPRITES
    # As drawn, to the last bit: the same pictures, in another order.
    slow = draw_video(replace(settings, classes=("left",), num_frames=16), 0, 0).frames
    fast = draw_video(replace(settings, classes=("left_fast",), num_frames=16), 0, 0).frames

    def kept(frames: torch.Tensor) -> list[bytes]:
        return sorted(frame.numpy().tobytes() for frame in frames)

    alike = sum(one == other for one, other in zip(kept(slow), kept(fast), strict=True))
    assert alike >= 12  # the rest differ by the rounding of a place


def only_order_is_beyond_it(out: Path) -> None:
    order = {
        name: settings_of(out, f"finetune_{name}")["data.frame_order"] for name in ("pretrained", "shuffled")
    }
    assert order == {"pretrained": "as_filmed", "shuffled": "shuffled"}


def intervals_are_of_the_test_videos(out: Path) -> None:
    assert interval(200, 400) == pytest.approx((0.4512, 0.5488), abs=1e-4)
    assert interval(400, 400)[1] == 1.0 and 0.98 < interval(400, 400)[0] < 1
    summary = json.loads((out / "summary.json").read_text())
    right = round(summary["top1"]["pretrained"] * plan.HELD_OUT)
    assert summary["interval95"]["pretrained"] == pytest.approx(interval(right, plan.HELD_OUT), abs=1e-4)


def another_seed_is_another_run(_: Path) -> None:
    assert not torch.equal(draw_video(plan.SPRITES, 0, 0).frames, draw_video(plan.SPRITES, 1, 0).frames)
    keys = (chance.key(seed, "initial weights") for seed in (0, 1))
    first, second = (build_autoencoder(plan.MODEL, chance.torch_generator(key)).state_dict() for key in keys)
    name = next(name for name, tensor in first.items() if tensor.ndim == 2 and bool(tensor.any()))
    assert not torch.equal(first[name], second[name])


def the_first_videos_are_shown(out: Path) -> None:
    held_out = read_manifest(out / "data" / "held_out" / "manifest.csv")
    shown = json.loads((out / "summary.json").read_text())["predictions"]
    assert [each["video"] for each in shown] == [held_out.row(number).path for number in range(len(shown))]
    right = sum(each["right"] for each in shown)
    assert all(each["right"] == (each["truth"] == each["top"][0]["name"]) for each in shown)
    assert f"{right} right, {len(shown) - right} wrong." in (out / "report.html").read_text("utf-8")


# ---- how it went


def pretraining_starts_at_random(out: Path) -> None:
    assert settings_of(out, "pretrain")["init"] == "" == plan.pretraining(Path("m"), Path("a"), 0).init


def flat_cubes_cost_about_one(out: Path) -> None:
    manifest = read_manifest(out / "data" / "held_out" / "manifest.csv")
    model = load(out / "pretrain", device="cpu")
    grid = model.grid
    frames = torch.stack([load_video(manifest.row(row).path, 16, 1, 32) for row in range(4)])
    tokens = torch.arange(grid.num_tokens).expand(4, -1)
    target = reconstruction_targets(frames, grid, tokens, "channel")
    assert 0.9 < float(target.square().mean()) < 1.0
    assert settings_of(out, "pretrain")["target.normalize"] == "channel"


def equal_scores_cost_a_logarithm(_: Path) -> None:
    classes = len(plan.SPRITES.classes)
    target = torch.full((1, classes), 0.1 / classes)
    target[0, 3] += 0.9  # smoothed, as in training
    cost = float(soft_cross_entropy(torch.zeros(1, classes), target))
    assert f"{cost:.2f}" == "2.08"


def the_decoder_predicts_the_rest(out: Path) -> None:
    model = load(out / "pretrain", device="cpu")
    counts = count_tokens(model.grid, model._mask(None))
    assert counts.visible + counts.decoded == model.grid.num_tokens and counts.visible > 0


def brightness_is_borrowed(out: Path) -> None:
    manifest = read_manifest(out / "data" / "held_out" / "manifest.csv")
    found = load(out / "pretrain", device="cpu").reconstruct(manifest.row(0).path)
    assert found.means is not None and list(found.clips)[2] == "true means only"
    hidden = (found.seen == 128).all(1, keepdim=True).expand_as(found.seen)
    assert torch.equal(found.means[~hidden], found.original[~hidden])

    def means(clip: torch.Tensor) -> torch.Tensor:
        parts = clip.float().reshape(4, 4, 3, 4, 8, 4, 8)  # of cubes of 4 x 8 x 8
        return parts.mean((1, 4, 6))

    # Brightness of the truth in both; and flat: no pattern in any hidden cube.
    assert torch.allclose(means(found.means), means(found.original), atol=1.0)
    assert torch.allclose(means(found.rebuilt), means(found.original), atol=12.0)
    cube = found.means[4:8, :, 0:8, 0:8] if bool(hidden[4, 0, 0, 0]) else found.means[0:4, :, 0:8, 0:8]
    if bool(hidden[4, 0, 0, 0]) or bool(hidden[0, 0, 0, 0]):
        assert (cube.flatten(2).amax((0, 2)) - cube.flatten(2).amin((0, 2))).max() <= 1


def a_loss_stands_below_its_picture(out: Path) -> None:
    manifest = read_manifest(out / "data" / "held_out" / "manifest.csv")
    found = load(out / "pretrain", device="cpu").reconstruct(manifest.row(0).path)
    assert (
        f"Loss on the hidden cubes: {found.error:.3f} (1.0 = knows nothing"
        in (out / "report.html").read_text()
    )


def each_point_is_a_mean(_: Path) -> None:
    sums = StepSums()
    for value in (1.0, 3.0):
        sums.add({"loss": torch.tensor(value)}, torch.tensor(1.0))
    assert sums.means() == {"loss": 2.0}


def confusions_are_of_test_videos(out: Path) -> None:
    rows = [
        line.split(",")[1:]
        for line in (out / "evaluate_pretrained" / "confusion.csv").read_text().splitlines()[1:]
    ]
    counts = torch.tensor([[int(cell) for cell in row] for row in rows])
    labels = read_manifest(out / "data" / "held_out" / "manifest.csv").labels()
    assert counts.sum(1).tolist() == np.bincount(labels, minlength=8).tolist()


def failed_videos_count_as_wrong(_: Path) -> None:
    scores = ViewScores(torch.tensor([0, 1]), 2)
    scores.update(torch.tensor([[9.0, 0.0]]), torch.tensor([0]), torch.tensor([0]))
    scores.fail([Failure(1, "gone.mp4", "gone")])
    assert (scores.accuracy().top1, scores.per_class()[1].right, scores.per_class()[1].failed) == (0.5, 0, 1)


def stars_mark_what_differs(out: Path) -> None:
    text = (out / "finetune_scratch" / "report.html").read_text("utf-8")
    settings = run_settings(out / "finetune_scratch")
    changed = {each.key for each in config.differences(type(settings)(), settings)}
    assert set(re.findall(r">([\w.]+) \*</td>", text)) == changed


def times_are_of_this_machine(out: Path) -> None:
    spent = json.loads((out / "seconds.json").read_text())
    summary = json.loads((out / "summary.json").read_text())
    for place, name in enumerate(("seconds", "cpu_seconds")):
        assert summary[name] == pytest.approx(
            {stage: each[place] for stage, each in spent.items()}
            | {"total": sum(each[place] for each in spent.values())},
            abs=0.1,
        )


def a_cell_shows_its_share(_: Path) -> None:
    one, other = (charts.confusion_matrix(torch.tensor([[n, n], [0, 1]]), ["a", "b"]) for n in (1, 7))
    pictures = [re.search(r"base64,\s*([^\"]+)", svg) for svg in (one, other)]
    assert pictures[0] and pictures[1] and pictures[0][1] == pictures[1][1]  # counts differ, shares do not
    assert ">7<" in other and ">7<" not in one


FACTS: dict[Callable[[Path], None], tuple[str, ...]] = {
    the_numbers_are_those_of_the_plan: (
        "One network, # videos without labels to pre-train on, # with labels to fine-tune on, # "
        "others to test on, # views each; one run, seed #.",
    ),
    arms_differ_in_start_and_order: (
        "Every arm is trained for as many steps on the same labels, and the one from scratch starts "
        "from the weights that pre-training started from.",
        "It alone has no lower rates for early layers, which spare weights that are already good.",
    ),
    a_still_frame_says_nothing: (
        "A still frame says nothing about the class: sprites of every class are at every place "
        "equally often.",
    ),
    unordered_frames_say_the_axis: (
        "All frames of a clip in no order say which axis the motion is on, and no more: slow sprites "
        "cross the picture once, fast ones three times, through the same places.",
    ),
    the_observer_guesses_among_four: (
        "So an ideal observer of unordered frames is right in # of the videos.",
    ),
    only_order_is_beyond_it: (
        "What a network reaches beyond that, luck and traces of the video compression aside, it has "
        "from the order of the frames.",
    ),
    intervals_are_of_the_test_videos: ("The thin lines are # intervals from # test videos.",),
    another_seed_is_another_run: (
        "Another seed draws other videos and other weights, which these intervals do not cover.",
    ),
    the_first_videos_are_shown: ("The first # test videos, not chosen: # right, # wrong.",),
    pretraining_starts_at_random: ("The network starts from random weights.",),
    flat_cubes_cost_about_one: (
        "Targets are normalised cube by cube: a prediction without any pattern costs about #.",
    ),
    equal_scores_cost_a_logarithm: ("To give all # classes the same score costs #.",),
    the_decoder_predicts_the_rest: (
        "The encoder sees some cubes of a clip, and the decoder predicts all others.",
    ),
    brightness_is_borrowed: (
        "A prediction says the pattern of a cube; its mean and contrast are taken from the true cube,"
        " since targets are normalised cube by cube.",
        'The row "true means only" shows how much of the picture is borrowed: what a reconstruction '
        "has beyond it, the network has predicted.",
    ),
    a_loss_stands_below_its_picture: (
        "Loss on the hidden cubes: # (# = knows nothing: every hidden cube is predicted flat).",
    ),
    each_point_is_a_mean: ("Each point is the mean since the point before.",),
    confusions_are_of_test_videos: (
        "Of the network that was pre-trained, then fine-tuned, on the test videos.",
    ),
    a_cell_shows_its_share: (
        "Each row is a true class: the stronger a cell, the larger its share of the row.",
        "Numbers are videos.",
    ),
    failed_videos_count_as_wrong: ("Failed videos count as wrong.",),
    stars_mark_what_differs: ("* differs from the default.",),
    times_are_of_this_machine: (
        "On this machine.",
        "Of a stage that was interrupted, the start that finished it alone.",
    ),
}
"""Every sentence that a report of the quickstart may hold, and what shows that it is so."""


def test_every_sentence_of_every_report_has_a_check(quickstart: Path) -> None:
    pages = sorted(quickstart.rglob("report.html"))
    assert len(pages) == 9
    found = {sentence for page in pages for sentence in sentences(page)}
    assert found == {sentence for told in FACTS.values() for sentence in told}


@pytest.mark.parametrize("fact", FACTS, ids=lambda each: each.__name__)
def test_it_is_so(fact: Callable[[Path], None], quickstart: Path) -> None:
    fact(quickstart)
