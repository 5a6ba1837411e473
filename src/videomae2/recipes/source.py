"""Weights by whatever name a user gives: a run's folder, finished or not, one of its checkpoints, a file, or
a hub name.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from videomae2 import config
from videomae2.data.tables.manifest import read_listed
from videomae2.engine import checkpoint as engine
from videomae2.errors import UserError
from videomae2.recipes.outcome import WEIGHTS, WITHOUT_AVERAGE, sampling_of
from videomae2.settings import FinetuneSettings, PretrainSettings
from videomae2.weights import Checkpoint, read_checkpoint, slice_head

Settings = PretrainSettings | FinetuneSettings
PARTS = {PretrainSettings: ("autoencoder", "pretrain"), FinetuneSettings: ("classifier", "classifier")}
"""The part of a run's task that is its network, and the kind of weights that makes."""


def read_weights(name: str, use_ema: bool = True, label_map: str | Sequence[int] | None = None) -> Checkpoint:
    """Read weights; of a run the final ones or, before it is finished, those of its newest checkpoint.

    `use_ema` takes a run's averaged weights where it has them. Also takes runs/x/checkpoints/step-N.
    UserError with what to try.
    """
    path = Path(name)
    if (path / engine.STATE).is_file():
        return _sliced(_from_run(path.parents[1], path, use_ema), label_map)
    if not (path / "config.toml").is_file():
        return replace(read_checkpoint(name, label_map), source=name)
    plain = path / WITHOUT_AVERAGE
    file = plain if not use_ema and plain.is_file() else path / WEIGHTS
    if file.is_file():
        return replace(read_checkpoint(file, label_map), source=name)
    return _sliced(_from_run(path, engine.find(path), use_ema), label_map)


def run_settings(folder: Path) -> Settings:
    """The settings that a run's config.toml replays. UserError: no run there, or one without weights of its
    own.
    """
    page = folder / "config.toml"
    if not page.is_file():
        raise UserError(
            f"{folder} holds no run (no config.toml); give the folder that a run was given as --out"
        )
    text = page.read_text(encoding="utf-8")
    kinds: dict[str, type[Settings]] = {kind.__name__: kind for kind in PARTS}
    for name, kind in kinds.items():
        if f"run of {name}" in text.splitlines()[0]:
            return config.from_toml(kind, text, str(page))
    raise UserError(
        f"{page} does not say which kind of run it is (its first line names one of {', '.join(kinds)})"
    )


def _from_run(folder: Path, path: Path, use_ema: bool) -> Checkpoint:
    """A training checkpoint as weights."""
    settings = run_settings(folder)
    part, kind = PARTS[type(settings)]
    averaged = use_ema and settings.optim.ema_decay > 0
    tensors = engine.load_model_state(path, "ema" if averaged else "model")
    state = {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items()}
    num_classes = state["head.weight"].shape[0] if "head.weight" in state else None
    extra: dict[str, Any] = {"data": sampling_of(settings.data)}
    if isinstance(settings, PretrainSettings):
        extra |= {"mask": asdict(settings.mask), "target": asdict(settings.target)}
    note = f"weights after step {engine.step_of(path)}{', averaged' if averaged else ''}, from {path}"
    return Checkpoint(
        state,
        kind,
        "ours",
        str(path),
        settings.model,
        num_classes,
        _names(settings, num_classes),
        extra,
        (note,),
    )


def _names(settings: Settings, num_classes: int | None) -> tuple[str, ...]:
    """The classes' names as the run's manifest gives them; none where it is gone."""
    try:
        names = tuple(read_listed(settings.data.train, settings.data).class_names) if num_classes else ()
    except UserError:
        return ()
    return names if len(names) == num_classes else ()


def _sliced(checkpoint: Checkpoint, label_map: str | Sequence[int] | None) -> Checkpoint:
    return checkpoint if label_map is None else slice_head(checkpoint, label_map)
