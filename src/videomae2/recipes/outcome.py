"""What a finished run leaves beside its log: the weights, and what their user must know."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from videomae2.errors import UserError
from videomae2.models.weights import save_safetensors
from videomae2.settings import DataSettings, ModelSettings

WEIGHTS = "model.safetensors"
"""A finished run's weights: the averaged ones where it kept an average."""
WITHOUT_AVERAGE = "model_without_ema.safetensors"
"""The trained weights beside the averaged ones."""

SAMPLING = ("sampling", "stride", "target_fps", "frame_order")
"""The data settings that a user of the weights must repeat to show the network what it was trained on."""


def write_weights(
    folder: Path,
    trained: nn.Module,
    averaged: nn.Module | None,
    settings: ModelSettings,
    kind: str,
    *,
    class_names: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a finished run's weights into its folder; the path of the main file comes back."""
    if averaged is not None:
        save_safetensors(folder / WITHOUT_AVERAGE, trained, settings, kind, class_names=class_names, extra=extra)
    return save_safetensors(folder / WEIGHTS, averaged or trained, settings, kind, class_names=class_names, extra=extra)


def sampling_of(data: DataSettings) -> dict[str, Any]:
    """How clips were taken from videos in training, to be kept with the weights."""
    return {name: value for name, value in asdict(data).items() if name in SAMPLING}


def weights_file(name: str, use_ema: bool = True) -> str:
    """The weights that `name` means: of a run's folder its final ones, averaged or not; anything else as it is."""
    folder = Path(name)
    if not (folder / "config.toml").is_file():
        return name
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"the run {name} is not finished, so it has no weights yet; run its command again to go on with it")
    plain = folder / WITHOUT_AVERAGE
    return str(plain if not use_ema and plain.is_file() else folder / WEIGHTS)
