"""What a quickstart found, as its report and its summary tell it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomae2.api.model import Prediction
from videomae2.quickstart import plan
from videomae2.recipes.evaluate import Evaluation


@dataclass(frozen=True)
class Outcome:
    """What the quickstart found; `top1` names each arm of the comparison, `shown` some videos; shares are in
    [0, 1].
    """

    runs: dict[str, Path]
    evaluations: dict[str, Evaluation]
    shown: list[Path]
    truth: str
    predictions: list[Prediction]
    seconds: dict[str, float]
    seed: int

    @property
    def example(self) -> Path:
        """The video that was predicted; `truth` is its class."""
        return self.shown[0]

    @property
    def top1(self) -> dict[str, float]:
        return {name: found.accuracy.top1 for name, found in self.evaluations.items()}

    def summary(self) -> dict[str, Any]:
        """The key numbers, as summary.json holds them."""
        classes = len(next(iter(self.evaluations.values())).class_names)
        top1 = {name: round(value, 4) for name, value in self.top1.items()}
        return {
            "top1": top1,
            "chance": round(1 / classes, 4),
            "margin_over_scratch": round(self.top1["pretrained"] - self.top1["scratch"], 4),
            "videos": {"unlabelled": plan.UNLABELLED, "labelled": plan.LABELLED, "held_out": plan.HELD_OUT},
            "views": next(iter(self.evaluations.values())).summary()["views"],
            "prediction": {
                "video": str(self.example),
                "truth": self.truth,
                "top": [vars(each) for each in self.predictions],
            },
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "seed": self.seed,
        }
