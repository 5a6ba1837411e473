"""Frozen records that cross floors; each checks itself when it is made and prints its shapes."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from videomae2.errors import UserError

T = TypeVar("T")


class _Shown:
    """A repr that shows tensors by type and shape instead of by value."""

    def __repr__(self) -> str:
        parts = (f"{f.name}={_show(getattr(self, f.name))}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(parts)})"


@dataclass(frozen=True, repr=False)
class Failure(_Shown):
    """One manifest row that could not be read: its row number, its path and the reason in one line."""

    row: int
    path: str
    reason: str


@dataclass(frozen=True, repr=False)
class Clip(_Shown):
    """One view of one manifest row: uint8 frames [T, C, H, W].

    `row` is the row the pixels came from; `view` numbers the views of that row; `label` is -1 where there is
    none. `failures` names the rows that were asked for first and could not be read.
    """

    frames: UInt8[Tensor, "T C H W"]
    row: int
    view: int = 0
    label: int = -1
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        if self.frames.dtype != torch.uint8 or self.frames.ndim != 4:
            raise UserError(f"a clip is uint8 [T, C, H, W]; {_show(self.frames)} came")


@dataclass(frozen=True, repr=False)
class Batch(_Shown, Generic[T]):
    """What the loader hands a recipe.

    frames uint8 [B, T, C, H, W] (or float in [0, 1], which mixup makes); row, view, label int64 [B]; label -1
    is none. `epoch` is the epoch the batch was drawn for. `failures` are rows that could not be read:
    replaced in training, absent from `frames` in evaluation, and always counted.
    """

    frames: Tensor
    row: Int[Tensor, "B"]
    view: Int[Tensor, "B"]
    label: Int[Tensor, "B"]
    epoch: int = 0
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        size = self.frames.shape[0]
        if self.frames.ndim != 5 or not (self.frames.dtype == torch.uint8 or self.frames.is_floating_point()):
            raise UserError(f"a batch is uint8 or float [B, T, C, H, W]; {_show(self.frames)} came")
        for name in ("row", "view", "label"):
            if tuple(getattr(self, name).shape) != (size,):
                raise UserError(
                    f"{name} must have one entry for each of the {size} clips; {_show(getattr(self, name))} "
                    "came"
                )

    def __len__(self) -> int:
        return self.frames.shape[0]

    def to(self, device: torch.device | str) -> "Batch[T]":
        """The same batch with its tensors on `device`, copied without blocking where the memory is pinned."""
        moved = {
            n: getattr(self, n).to(device, non_blocking=True) for n in ("frames", "row", "view", "label")
        }
        return replace(self, **moved)

    def pin_memory(self) -> "Batch[T]":
        """The hook by which `torch.utils.data.DataLoader(pin_memory=True)` pins a record."""
        return replace(self, **{n: getattr(self, n).pin_memory() for n in ("frames", "row", "view", "label")})


@dataclass(frozen=True, repr=False)
class TokenSplit(_Shown):
    """Which tokens play which part, by index; the same counts for every sample.

    visible [B, V]: tokens the encoder sees, ascending. decoded [B, R]: tokens the decoder predicts,
    ascending. scored [B, S]: which of the R predictions count, as positions into `decoded`, ascending. (The
    design draws `scored` as [B, R]; as indices it keeps static shapes and lets targets be computed only
    there.)
    """

    visible: Int[Tensor, "B V"]
    decoded: Int[Tensor, "B R"]
    scored: Int[Tensor, "B S"]

    def __post_init__(self) -> None:
        for name in ("visible", "decoded", "scored"):
            indices = getattr(self, name)
            if indices.ndim != 2 or indices.dtype != torch.int64 or indices.shape[0] != self.visible.shape[0]:
                raise UserError(
                    f"{name} must be int64 [B, count] with the same B throughout; {_show(indices)} came"
                )
        if self.visible.shape[1] == 0:
            raise UserError(
                "the encoder would see no token at all; lower the encoder mask ratio or enlarge the grid"
            )
        if self.scored.shape[1] > self.decoded.shape[1]:
            raise UserError(
                f"{self.scored.shape[1]} predictions are scored, but only {self.decoded.shape[1]} are decoded"
            )

    @property
    def targets(self) -> Int[Tensor, "B S"]:
        """Token numbers, in the whole grid, of the predictions that count."""
        return self.decoded.gather(1, self.scored)

    def to(self, device: torch.device | str) -> "TokenSplit":
        """The same split on another device."""
        return TokenSplit(self.visible.to(device), self.decoded.to(device), self.scored.to(device))


@dataclass(frozen=True, repr=False)
class Boxes(_Shown):
    """Boxes [A, 4] as (x0, y0, x1, y1) in pixels, with optional labels [A] and scores [A]."""

    xyxy: Float[Tensor, "A 4"]
    labels: Int[Tensor, "A"] | None = None
    scores: Float[Tensor, "A"] | None = None

    def __post_init__(self) -> None:
        if self.xyxy.ndim != 2 or self.xyxy.shape[1] != 4:
            raise UserError(f"boxes are [A, 4] as (x0, y0, x1, y1); {_show(self.xyxy)} came")
        if bool((self.xyxy[:, 2:] < self.xyxy[:, :2]).any()):
            raise UserError(
                "a box ends before it starts; give boxes as (x0, y0, x1, y1) with x1 >= x0 and y1 >= y0"
            )


@dataclass(frozen=True, repr=False)
class Segments(_Shown):
    """Time segments [M, 2] as (start, end) in seconds, with optional labels [M] and scores [M]."""

    seconds: Float[Tensor, "M 2"]
    labels: Int[Tensor, "M"] | None = None
    scores: Float[Tensor, "M"] | None = None

    def __post_init__(self) -> None:
        if self.seconds.ndim != 2 or self.seconds.shape[1] != 2:
            raise UserError(f"segments are [M, 2] as (start, end) in seconds; {_show(self.seconds)} came")
        if bool((self.seconds[:, 1] < self.seconds[:, 0]).any()):
            raise UserError(
                "a segment ends before it starts; give segments as (start, end) with end >= start"
            )


@dataclass(frozen=True, repr=False)
class StepOutput(_Shown):
    """What a recipe's step gives the loop: a scalar loss that carries gradients, and detached scalars to log.

    `metrics` stay on the device: the loop reads them only when it logs, so that a step never waits for the
    device.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss.ndim != 0:
            raise UserError(f"a step's loss is one number; {_show(self.loss)} came; take its mean")


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return repr(value)


ClipBatch = Batch
