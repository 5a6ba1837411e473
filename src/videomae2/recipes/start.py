"""Initial weights of a recipe, from whatever a user names, with a report on every tensor."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from videomae2.recipes.source import read_weights
from videomae2.weights import Checkpoint, LoadReport, load_into


def load_pretraining(autoencoder: nn.Module, init: str) -> LoadReport:
    """Continue pre-training: the whole network from a pre-training checkpoint, the encoder alone from any
    other.
    """
    checkpoint = read_weights(init)
    return load_into(autoencoder, checkpoint, expect="same" if checkpoint.kind == "pretrain" else "encoder")


def load_classifier(
    classifier: nn.Module, init: str, num_classes: int, class_names: Sequence[str] = (), label_map: str = ""
) -> LoadReport:
    """Initialise a classifier: the encoder from any checkpoint, the head only from one with the same classes.

    `label_map` slices a larger head first (710 -> 400/600/700). A head of another number of classes, or of
    other names, is dropped and reported.
    """
    checkpoint = read_weights(init, label_map=label_map or None)
    if checkpoint.kind == "classifier" and not _same_classes(checkpoint, num_classes, class_names):
        report = load_into(classifier, _without_head(checkpoint), expect="encoder")
        had = (
            f"{checkpoint.num_classes} classes" if checkpoint.num_classes != num_classes else "other classes"
        )
        return replace(
            report,
            notes=(*report.notes, f"its head has {had}: dropped, a fresh one of {num_classes} is trained"),
        )
    return load_into(classifier, checkpoint, expect="encoder")


def _same_classes(checkpoint: Checkpoint, num_classes: int, class_names: Sequence[str]) -> bool:
    named = bool(checkpoint.class_names and class_names)
    return checkpoint.num_classes == num_classes and (
        not named or tuple(class_names) == checkpoint.class_names
    )


def _without_head(checkpoint: Checkpoint) -> Checkpoint:
    return replace(
        checkpoint, state={name: t for name, t in checkpoint.state.items() if not name.startswith("head.")}
    )
