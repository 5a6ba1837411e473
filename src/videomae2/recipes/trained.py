"""A trained network by name: a run's folder, a weights file of any layout, or a hub name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from videomae2.errors import UserError
from videomae2.heads.classify import Classifier
from videomae2.recipes.train import NETWORKS
from videomae2.recipes.weights import read_weights
from videomae2.settings import ModelSettings
from videomae2.weights import Checkpoint, LoadReport, load_into

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Trained(Generic[M]):
    """A network in eval mode on its device, its settings, its checkpoint and the report of the loading."""

    module: M
    settings: ModelSettings
    checkpoint: Checkpoint
    report: LoadReport


def read_trained(
    name: str,
    use_ema: bool = True,
    device: torch.device | str = "cpu",
    change: Callable[[ModelSettings], ModelSettings] = lambda settings: settings,
) -> Trained[nn.Module]:
    """The network that a weights name stands for, in eval mode; `change` may replace its settings.

    Another number of frames or another size interpolates the position table. UserError where weights and
    settings do not fit, and where a foreign file has no model name and `change` gives none.
    """
    checkpoint = read_weights(name, use_ema)
    # Files of other projects may hold tensors alone; their shapes do not always tell one model from another.
    settings = change(checkpoint.settings or ModelSettings(name=""))
    if not settings.name:
        reason = "; ".join(checkpoint.notes)
        raise UserError(
            f"{name} does not say which network it is: {reason}; "
            'in Python, load(..., name="vit_b16") names it'
        )
    module = NETWORKS[checkpoint.kind](settings, checkpoint)
    report = load_into(module, checkpoint, expect="encoder" if checkpoint.kind == "encoder" else "same")
    return Trained(module.to(device).eval(), settings, checkpoint, report)


def read_classifier(
    name: str, use_ema: bool = True, device: torch.device | str = "cpu"
) -> Trained[Classifier]:
    """As `read_trained`; UserError where the weights have no classification head."""
    # Refused here with the command that helps: a head with random weights would give plausible nonsense.
    trained = read_trained(name, use_ema, device)
    if not isinstance(trained.module, Classifier):
        raise UserError(
            f"expected a classifier, got {name}, a {trained.checkpoint.kind} network without a classification"
            f" head; fine-tune it first: videomae2 finetune --init {name} --data.train LABELLED --out RUN"
        )
    return Trained(trained.module, trained.settings, trained.checkpoint, trained.report)
