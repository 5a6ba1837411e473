"""What a finished run leaves beside its log: the weights, and what their user must know."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from videomae2.settings import DataSettings, ModelSettings
from videomae2.weights import save_safetensors

WEIGHTS = "model.safetensors"
"""A finished run's weights: the averaged ones where it kept an average."""
WITHOUT_AVERAGE = "model_without_ema.safetensors"
"""The trained weights beside the averaged ones."""

SAMPLING = ("sampling", "stride", "target_fps", "frame_order")
"""The data settings that a user of the weights must repeat to show the network what it was trained on."""


def weights_writer(
    folder: Path,
    part: str,
    settings: ModelSettings,
    kind: str,
    *,
    class_names: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Callable[[nn.Module, nn.Module | None], None]:
    """What the loop is to do with the trained task and the averaged one (None: no average): write their
    network `part`.
    """

    def write(task: nn.Module, averaged: nn.Module | None) -> None:
        files = {WEIGHTS: averaged, WITHOUT_AVERAGE: task} if averaged is not None else {WEIGHTS: task}
        for name, source in files.items():
            save_safetensors(
                folder / name, getattr(source, part), settings, kind, class_names=class_names, extra=extra
            )

    return write


def sampling_of(data: DataSettings) -> dict[str, Any]:
    """How clips were taken from videos in training, to be kept with the weights."""
    return {name: value for name, value in asdict(data).items() if name in SAMPLING}
