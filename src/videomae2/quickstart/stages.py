"""The main job end to end on a small set that the package draws itself: `videomae2 quickstart`."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from videomae2 import chance
from videomae2.api.jobs import evaluate, finetune, pretrain
from videomae2.api.model import load
from videomae2.data.sprites.draw import write_sprites
from videomae2.data.tables.manifest import read_manifest
from videomae2.engine.progress import progress, say
from videomae2.errors import UserError
from videomae2.files import json_text, must_be_new, write_atomically
from videomae2.models.build import build_autoencoder
from videomae2.quickstart import plan
from videomae2.quickstart.plan import FrameOrder
from videomae2.quickstart.story import ARMS, Outcome, Shown, Spent, write_quickstart_report
from videomae2.recipes.evaluate import Evaluation
from videomae2.report.training import REPORT
from videomae2.weights import save_safetensors

T = TypeVar("T")


def run_quickstart(out: Path, seed: int = 0) -> Path:
    """Draw data, pre-train, fine-tune, compare and report; returns the path of the report.

    Compared are fine-tuning after pre-training, the same from scratch, and a control on shuffled frames.
    `out` gets report.html, summary.json, the data and every run. UserError where `out` was made with another
    seed.
    """
    out = Path(out)
    _claim(out, seed)
    outcome = Quickstart(out, seed).run()
    write_atomically(out / "summary.json", json_text(outcome.summary(), 2) + "\n")
    report = write_quickstart_report(outcome, out / "report.html")
    say(f"\n{'; '.join(f'{name} {100 * value:.1f} %' for name, value in outcome.top1.items())}")
    print(report)
    return report


class Quickstart:
    """The stages in order. Each is timed; those that train go on where an interrupted quickstart left off."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out, seed
        self.spent: dict[str, Spent] = {}
        self._before = _spent_before(out)

    def run(self) -> Outcome:
        """Every stage, from drawing videos to predicting one."""
        sets = self._stage("data", "Drawing sprite videos", self.draw_data)
        settings = plan.pretraining(sets["unlabelled"], self.out / "pretrain", self.seed)
        pretrained = self._stage(
            "pretrain", "Pre-training with dual masking, no labels", lambda: pretrain(settings)
        )
        arms: dict[str, tuple[str, Path, FrameOrder]] = {
            "pretrained": ("Fine-tuning the pre-trained network", pretrained, "as_filmed"),
            "scratch": (
                "Training the same network from scratch, same budget",
                self._untrained(),
                "as_filmed",
            ),
            "shuffled": ("Control: fine-tuning on frames in shuffled order", pretrained, "shuffled"),
        }
        runs: dict[str, Path] = {"pretrain": pretrained}
        evaluations: dict[str, Evaluation] = {}
        for name, (title, init, order) in arms.items():
            runs[name] = self._finetune(name, title, sets["labelled"], init, order)
            evaluations[name] = self._evaluate(name, runs[name], sets["held_out"], order)
        evaluations["pretrained, tested shuffled"] = self._evaluate(
            "pretrained, tested shuffled", runs["pretrained"], sets["held_out"], "shuffled"
        )
        shown = self._stage(
            "predict", "Predicting", lambda: self._predict(runs["pretrained"], sets["held_out"])
        )
        for each in shown:
            say(f"  {each.video.name}, {each.truth}: {', '.join(map(str, each.predictions))}")
        pages = {"pre-training": pretrained / REPORT}
        for name, words in ARMS.items():
            if name in runs:
                pages[f"training: {words}"] = runs[name] / REPORT
            pages[f"evaluation: {words}"] = self._evaluated(name) / REPORT
        return Outcome(runs, evaluations, shown, pages, self.spent, self.seed)

    def draw_data(self) -> dict[str, Path]:
        """Three sets of different videos, drawn unless they are there; the manifest of each by its name."""
        first, sets = 0, {}
        for name, count in (
            ("unlabelled", plan.UNLABELLED),
            ("labelled", plan.LABELLED),
            ("held_out", plan.HELD_OUT),
        ):
            folder = self.out / "data" / name
            if not (folder / "manifest.csv").exists():
                with progress(f"draw {name}", count) as drawn:
                    write_sprites(
                        folder,
                        num_videos=count,
                        seed=self.seed,
                        settings=plan.SPRITES,
                        first=first,  # the number of a video decides what it shows: no two sets share one
                        progress=drawn.advance,
                    )
            sets[name] = folder / "manifest.csv"
            first += count
        return sets

    def _untrained(self) -> Path:
        """The weights that pre-training started from, so that the arm from scratch differs in nothing else.

        A classifier's own initial weights, normal with standard deviation 0.02 as released, are weaker at
        this width.
        """
        generator = chance.torch_generator(chance.key(self.seed, "initial weights"))
        path = self.out / "untrained.safetensors"
        save_safetensors(path, build_autoencoder(plan.MODEL, generator), plan.MODEL, "pretrain")
        return path

    def _finetune(self, name: str, title: str, manifest: Path, init: Path, order: FrameOrder) -> Path:
        out, scratch = self.out / f"finetune_{name}", name == "scratch"
        settings = plan.finetuning(manifest, out, self.seed, str(init), order, scratch=scratch)
        return self._stage(f"finetune_{name}", title, lambda: finetune(settings))

    def _evaluate(self, name: str, run: Path, manifest: Path, order: FrameOrder) -> Evaluation:
        out = self._evaluated(name)
        settings = plan.evaluation(run, manifest, out, order)
        return self._stage(out.name, f"Evaluating: {name}", lambda: evaluate(settings))

    def _evaluated(self, name: str) -> Path:
        """The folder of an arm's evaluation."""
        return self.out / f"evaluate_{name.replace(', ', '_').replace(' ', '_')}"

    def _predict(self, run: Path, manifest: Path) -> list[Shown]:
        """The first held-out videos, with what the network says in the views of the evaluation."""
        held_out, model = read_manifest(manifest), load(run)
        found = []
        for number in range(min(plan.PREDICTED, len(held_out))):
            row = held_out.row(number)
            said = model.predict(row.path, top=3, clips=plan.PLAIN.test_clips, crops=plan.PLAIN.test_crops)
            found.append(Shown(Path(row.path), held_out.class_names[row.label], said))
        return found

    def _stage(self, name: str, title: str, work: Callable[[], T]) -> T:
        say(f"\n== {title}")
        start, before = time.monotonic(), sum(os.times()[:4])  # with loader processes that have ended
        value = work()
        spent = Spent(time.monotonic() - start, sum(os.times()[:4]) - before)
        # What an earlier start had finished takes no time in this one, and its own time is what it took.
        self.spent[name] = max(spent, self._before.get(name, spent))
        write_atomically(self.out / SPENT, json_text(self._before | self.spent))
        return value


SPENT = "seconds.json"
"""Wall and CPU seconds of each stage that is finished."""


def _spent_before(out: Path) -> dict[str, Spent]:
    try:
        found = json.loads((out / SPENT).read_text(encoding="utf-8"))
        return {name: Spent(float(wall), float(cpu)) for name, (wall, cpu) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or not written by us
        return {}


def _claim(out: Path, seed: int) -> None:
    """Refuse a folder that something else, or another seed, filled: it would be mixed with this one's."""
    marker = out / "seed.txt"
    if not marker.exists():
        must_be_new(out)
    if marker.exists() and marker.read_text().strip() != str(seed):
        raise UserError(
            f"{out} holds a quickstart with seed {marker.read_text().strip()}, not {seed}; give another --out"
        )
    write_atomically(marker, f"{seed}\n")
