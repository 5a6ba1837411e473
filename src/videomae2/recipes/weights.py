"""Weights of runs: what is saved for their user, how they are found by name, how a network starts from them.

A name is a run's folder (finished or not), one of its checkpoints (RUN@best, RUN@last, RUN@step-N), a weights
file of any layout, or a hub name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from videomae2.engine import checkpoint as checkpoints
from videomae2.engine.progress import say
from videomae2.errors import UserError
from videomae2.heads.classify import Classifier, build_classifier, headless_network
from videomae2.heads.spatial import SpatialDetector, detector_of
from videomae2.models.build import build_autoencoder
from videomae2.settings import DataSettings, EvaluateSettings, ModelSettings
from videomae2.weights import (
    Checkpoint,
    LoadReport,
    load_into,
    read_checkpoint,
    same_name,
    save_safetensors,
    settings_from,
    slice_head,
)
from videomae2.weights.fetch import there

WEIGHTS = "model.safetensors"
"""The final weights of a run: the averaged ones where it kept an average."""
WITHOUT_AVERAGE = "model_without_ema.safetensors"
"""The trained weights beside the averaged ones."""

AS_TRAINED = ("sampling", "stride", "target_fps", "frame_order", "first_label")
"""The data settings that inference must share with training: how frames are taken from a video, and what the
numbers of a list mean.
"""


@dataclass(frozen=True)
class About:
    """The metadata of weights, saved in every checkpoint of a run and in its final weights.

    kind: pretrain (with a decoder), classifier (with a head), encoder, or localizer, which has no encoder and
    no settings of one. `extra` is any JSON.
    """

    kind: str
    settings: ModelSettings | None
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The metadata as plain JSON, for state.json."""
        return asdict(self)

    def writer(self, folder: Path) -> Callable[[dict[str, dict[str, Tensor]]], None]:
        """A function for `Job.finish`: it writes state dicts into a run's folder as safetensors."""

        def write(weights: dict[str, dict[str, Tensor]]) -> None:
            # The averaged weights take the plain name: they are the better ones, and what most users want.
            files = {WEIGHTS: weights.get("ema", weights["model"])}
            if "ema" in weights:
                files[WITHOUT_AVERAGE] = weights["model"]
            for name, state in files.items():
                save_safetensors(
                    folder / name,
                    state,
                    self.settings,
                    self.kind,
                    class_names=self.class_names,
                    extra=self.extra,
                )

        return write


def sampling_of(data: DataSettings) -> dict[str, Any]:
    """The data settings to be saved with the weights: those named in `AS_TRAINED`."""
    return {name: value for name, value in asdict(data).items() if name in AS_TRAINED}


def sampling_as_trained(settings: EvaluateSettings, trained: Mapping[str, Any]) -> DataSettings:
    """The data settings to evaluate with: those of training wherever the user left the default.

    Every difference from training or from the user's own settings is printed.
    """
    # Another stride or frame rate than in training costs accuracy without any error, and is easily missed:
    # no one default is right for all weights.
    defaults, followed = DataSettings(), {}
    for name, value in trained.items():
        here = getattr(settings.data, name, value)
        if here == value:
            continue
        # A value that equals the default may also have been given on purpose, which cannot be known here:
        # --no_as_trained is for that case.
        if settings.as_trained and here == getattr(defaults, name):
            followed[name] = value
            say(
                f"note: data.{name} is {value!r}, as when these weights were trained; --no_as_trained takes "
                f"{here!r} instead"
            )
        else:
            say(
                f"note: data.{name} is {here!r} here, but was {value!r} when these weights were trained; "
                f"--data.{name} {value} repeats that"
            )
    return replace(settings.data, **followed)


# ---- reading by name


def read_weights(name: str, use_ema: bool = True, label_map: str | Sequence[int] | None = None) -> Checkpoint:
    """Read weights by name; of an unfinished run, those of its newest checkpoint.

    `use_ema` chooses a run's averaged weights where it has them. `label_map` slices the head of a classifier.
    UserError where there are no such weights.
    """
    once = _READ.get()
    if once is None:
        checkpoint = _read(name, use_ema)
    else:
        checkpoint = once[name, use_ema] = once.get((name, use_ema)) or _read(name, use_ema)
    return checkpoint if label_map is None else slice_head(checkpoint, label_map)


@contextmanager
def reading_once() -> Iterator[None]:
    """A block in which weights are read once, however many of its functions ask for them by name.

    The start of a run asks for the network, and then for the tensors; a hub would be asked twice, and
    gigabytes be read twice.
    """
    token = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(token)


_READ: ContextVar[dict[tuple[str, bool], Checkpoint] | None] = ContextVar("weights read so far", default=None)


def _read(name: str, use_ema: bool) -> Checkpoint:
    kept = checkpoint_named(name)
    if kept is not None:
        return replace(_read(str(kept), use_ema), source=name)
    if not there(name):  # a hub name, or one that no file can have
        return read_checkpoint(name)
    path = Path(name)
    # Each kind of name is known by a file in it, so that a folder may be called anything.
    if (path / checkpoints.STATE).is_file():
        return _of_training(path, use_ema)
    if not (path / "config.toml").is_file():
        return replace(read_checkpoint(name), source=name)
    plain = path / WITHOUT_AVERAGE
    file = plain if not use_ema and plain.is_file() else path / WEIGHTS
    if file.is_file():
        return replace(read_checkpoint(file), source=name)
    return _of_training(checkpoints.find(path), use_ema)


def checkpoint_named(name: str) -> Path | None:
    """The checkpoint that RUN@best, RUN@last or RUN@step-N names; None for a name that is no such.

    UserError, with what there is, for a run that has no such checkpoint.
    """
    run, _, which = name.rpartition("@")
    if not run or there(name) or not there(Path(run) / "config.toml"):
        return None
    kept = checkpoints.checkpoints(Path(run) / "checkpoints")
    named = {path.name: path for path in kept}
    if kept:
        # As the engine chose it: by the metric of the run's evaluations.
        best = checkpoints.read_state(kept[-1]).get("best")
        chosen = named.get(f"step-{best['step']}") if best else None
        named |= {"last": kept[-1]} | ({"best": chosen} if chosen else {})
    elif (Path(run) / WEIGHTS).is_file():  # its checkpoints were removed
        named["last"] = Path(run)
    if which not in named:
        has = ", ".join(f"{run}@{each}" for each in named) or "no checkpoint"
        raise UserError(
            f"expected a checkpoint of {run}, got @{which}; it has {has}"
            + ("" if "best" in named else " (@best needs evaluations: --data.val)")
        )
    return named[which]


def _of_training(path: Path, use_ema: bool) -> Checkpoint:
    """A checkpoint of a run as weights."""
    state = checkpoints.read_state(path)
    about = state.get("about")
    if not about:
        raise UserError(
            f"checkpoint {path} does not say which network it holds (an older version wrote it); finish its "
            "run with the version that began it, and give the run's folder"
        )
    try:
        # Before the first update the average holds the random initial values.
        averaged = use_ema and state["averaged"] > 0
        kind, told = str(about["kind"]), about["settings"]
        # A detector on features has no encoder, and says so; of any other network it would be damage.
        settings = None if told is None and kind == "localizer" else settings_from(told, path)
        classes, names, extra = about["num_classes"], tuple(about["class_names"]), dict(about["extra"])
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"checkpoint {path} is damaged: its {checkpoints.STATE} does not say which network it holds; "
            "give an earlier one"
        ) from error
    note = f"weights after step {state['step']}{', averaged' if averaged else ''}, from {path}"
    tensors = checkpoints.load_model_state(path, "ema" if averaged else "model")
    return Checkpoint(tensors, kind, "ours", str(path), settings, classes, names, extra, (note,))


# ---- initial weights, with a report on every tensor


def load_pretraining(autoencoder: nn.Module, init: str) -> LoadReport:
    """Initialise an autoencoder: all of it from a pre-training checkpoint, the encoder alone from others."""
    checkpoint = read_weights(init)
    # "same": a decoder that is missing from a pre-training checkpoint is an error and not a fresh start.
    return load_into(autoencoder, checkpoint, expect="same" if checkpoint.kind == "pretrain" else "encoder")


def load_classifier(
    classifier: nn.Module, init: str, num_classes: int, class_names: Sequence[str] = (), label_map: str = ""
) -> LoadReport:
    """Initialise a classifier: the encoder from any checkpoint, the head only from one with the same classes.

    `label_map` first slices a larger head (710 -> 400/600/700 classes). A head with another number of classes
    or other class names is dropped, which the report says.
    """
    checkpoint = read_weights(init, label_map=label_map or None)
    if label_map and checkpoint.names_origin == "generated":
        checkpoint = replace(checkpoint, class_names=())  # the map says whose is whose, such names do not
    if label_map and not _same_classes(checkpoint, num_classes, class_names):
        raise UserError(
            f"expected a label map that gives the {num_classes} classes of the training videos, got "
            f"{checkpoint.num_classes} classes from {label_map}"
            + (f" ({', '.join(checkpoint.class_names[:3])} ...)" if checkpoint.class_names else "")
            + "; mend the map, or leave it out to train a fresh head"
        )
    if checkpoint.kind == "classifier" and not _same_classes(checkpoint, num_classes, class_names):
        report = load_into(classifier, _without_head(checkpoint), expect="encoder")
        other = checkpoint.num_classes != num_classes
        had = f"{checkpoint.num_classes} classes" if other else "other classes"
        note = f"its head has {had}: dropped, a fresh one of {num_classes} is trained"
        return replace(report, notes=(*report.notes, note))
    return load_into(classifier, checkpoint, expect="encoder")


NORMS = {"fc_norm.": "token_norm.", "encoder.norm.": "token_norm."}
"""The last norm of a classifier, and that of an encoder with one, as the detector has it: over each token."""


def load_detector(detector: nn.Module, init: str, class_names: Sequence[str]) -> LoadReport:
    """Initialise a detector: encoder and last norm from any checkpoint, the head from one with its classes.

    V1 takes the norm along too. A head of other actions, or of a classifier, is dropped.
    """
    checkpoint = read_weights(init)
    ours = checkpoint.kind == "detector" and _same_classes(checkpoint, len(class_names), class_names)
    state = {}
    for name, tensor in (checkpoint if ours else _without_head(checkpoint)).state.items():
        there = next((start for start in NORMS if name.startswith(start)), "")
        state[NORMS.get(there, "") + name.removeprefix(there)] = tensor
    return load_into(detector, replace(checkpoint, state=state), expect="encoder")


def _same_classes(checkpoint: Checkpoint, num_classes: int, class_names: Sequence[str]) -> bool:
    # By name where both sides have names: as many classes in another order would start the head from rows
    # that belong to other classes.
    if checkpoint.num_classes != num_classes:
        return False
    pairs = zip(class_names, checkpoint.class_names, strict=False)
    return all(same_name(ours, theirs) for ours, theirs in pairs)


def _without_head(checkpoint: Checkpoint) -> Checkpoint:
    kept = {name: tensor for name, tensor in checkpoint.state.items() if not name.startswith("head.")}
    return replace(checkpoint, state=kept)


M = TypeVar("M", bound=nn.Module)


NETWORKS: dict[str, Callable[[ModelSettings, Checkpoint], nn.Module]] = {
    "pretrain": lambda settings, _: build_autoencoder(settings),
    "classifier": lambda settings, checkpoint: build_classifier(settings, checkpoint.num_classes or 0),
    # The trunk of a classifier has no final norm, since its `fc_norm` comes after the pooling.
    "encoder": headless_network,
    "detector": detector_of,
}
"""Kind of weights -> the network that they are loaded into."""


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
    if checkpoint.kind not in NETWORKS:
        raise UserError(
            f"expected a network that sees video, got {name}, a {checkpoint.sketch}; name the weights of its "
            "encoder"
        )
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


def read_detector(
    name: str,
    use_ema: bool = True,
    device: torch.device | str = "cpu",
    change: Callable[[ModelSettings], ModelSettings] = lambda settings: settings,
) -> Trained[SpatialDetector]:
    """As `read_trained`; UserError where the weights have no head over boxes."""
    trained = read_trained(name, use_ema, device, change)
    if not isinstance(trained.module, SpatialDetector):
        raise UserError(
            f"expected a detector, got {name}, a {trained.checkpoint.kind} network without a head over "
            f"boxes; train one first: videomae2 detect-train --init {name} --data.train BOXES --out RUN"
        )
    return Trained(trained.module, trained.settings, trained.checkpoint, trained.report)
