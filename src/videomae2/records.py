"""Frozen records that cross floors; each checks itself when it is made and prints its shapes.

The checks are plain code, not annotations, because a user's own program runs without the type checker of
the tests.
"""

from dataclasses import dataclass, field
from typing import Generic, Literal

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from videomae2.errors import UserError
from videomae2.labels import T_co, Target, Unlabelled
from videomae2.placement import Placement
from videomae2.shapes import Record, check_indices, check_tensor, show


@dataclass(frozen=True)
class Failure:
    """One manifest row that could not be read: its row number, its path and the reason in one line.

    kind: broken (the video is), transport (the way to it failed, and may work another time) or time (it took
    longer than it may).
    """

    row: int
    path: str
    reason: str
    kind: Literal["broken", "transport", "time"] = "broken"


@dataclass(frozen=True, repr=False)
class Clip(Record):
    """One view of one manifest row: uint8 frames [T, C, H, W].

    `row` is the row the pixels came from; `view` numbers the views of that row in an epoch, also those that
    stand in for another row; `target` is that of one clip, as seen through `placement`, which says where in
    the source picture the frames lie (None where nobody knows). `failures` names the rows that were asked for
    first and could not be read.
    """

    frames: UInt8[Tensor, "T C H W"]
    row: int
    view: int = 0
    target: Target = field(default_factory=Unlabelled)
    placement: Placement | None = None
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        check_tensor("a clip", self.frames, "uint8", "T C H W")
        # A batch stacks the targets of its clips: one that counts as two would move all labels after it.
        if not isinstance(self.target, Target) or len(self.target) != 1:
            raise UserError(f"expected the target of one clip, got {show(self.target)}")
        size = tuple(self.frames.shape[-2:])
        if self.placement is not None and self.placement.size != size:
            raise UserError(f"expected a placement in {size[0]}x{size[1]} pixels, got {self.placement}")


@dataclass(frozen=True, repr=False)
class Batch(Record, Generic[T_co]):
    """What the loader hands a recipe.

    frames uint8 [B, T, C, H, W] (or float in [0, 1], which mixup makes); row, view int64 [B]; `target` is
    that of all B clips, of the kind the task chose. `epoch` is the epoch the batch was drawn for, `place` the
    number of its first video in the order of that epoch. `failures` are rows that could not be read: replaced
    in training, absent from `frames` in evaluation, and always counted; `replaced` is the number of videos
    in whose place another one was read. `placements` are those of the clips, or empty where nobody knows
    them.
    """

    frames: UInt8[Tensor, "B T C H W"] | Float[Tensor, "B T C H W"]
    row: Int[Tensor, "B"]
    view: Int[Tensor, "B"]
    target: T_co
    epoch: int = 0
    failures: tuple[Failure, ...] = ()
    placements: tuple[Placement, ...] = ()
    place: int = 0
    replaced: int = 0

    def __post_init__(self) -> None:
        check_tensor("a batch", self.frames, "uint8 or float", "B T C H W")
        size = len(self.frames)
        for name in ("row", "view"):
            check_indices(name, getattr(self, name), "B", B=size)
        if not isinstance(self.target, Target) or len(self.target) != size:
            raise UserError(f"expected a target of {size} clips, got {show(self.target)}")
        # Frames at hand have no source, so a batch may know no placement; some without others is a fault.
        if len(self.placements) not in (0, size):
            raise UserError(f"expected a placement for each of {size} clips, got {len(self.placements)}")

    def __len__(self) -> int:
        return self.frames.shape[0]


@dataclass(frozen=True, repr=False)
class TokenSplit(Record):
    """Which tokens play which part, by index; the same counts for every sample.

    visible [B, V]: tokens the encoder sees, ascending. decoded [B, R]: tokens the decoder predicts,
    ascending. scored [B, S]: which of the R predictions count, as positions into `decoded`, ascending: as
    indices they keep shapes static, and targets are computed only there.
    """

    visible: Int[Tensor, "B V"]
    decoded: Int[Tensor, "B R"]
    scored: Int[Tensor, "B S"]

    def __post_init__(self) -> None:
        check_indices("visible", self.visible, "B V")
        check_indices("decoded", self.decoded, "B R", B=len(self.visible))
        check_indices("scored", self.scored, "B S", B=len(self.visible))
        if self.visible.shape[1] == 0:
            raise UserError(
                "the encoder would see no token at all; lower the encoder mask ratio or enlarge the grid"
            )
        # `scored` are positions in `decoded`, each at most once; values are not read: they may be on a GPU.
        if self.scored.shape[1] > self.decoded.shape[1]:
            raise UserError(
                f"expected at most {self.decoded.shape[1]} scored predictions, as many as are decoded, "
                f"got {self.scored.shape[1]}"
            )

    @property
    def targets(self) -> Int[Tensor, "B S"]:
        """Token numbers, in the whole grid, of the predictions that count."""
        return self.decoded.gather(1, self.scored)


@dataclass(frozen=True, repr=False)
class StepOutput(Record):
    """What a task's step gives the loop: a scalar loss that carries gradients, and detached scalars to log.

    `metrics` are left on the device: the loop reads them only when it logs, so that a step never waits
    for the device.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # `backward` needs one number, and only the task knows whether its mean is over clips or over tokens.
        if not isinstance(self.loss, Tensor) or self.loss.ndim != 0 or not self.loss.is_floating_point():
            raise UserError(
                f"expected a step's loss as one number, float [], got {show(self.loss)}; take its mean"
            )
        for name, value in self.metrics.items():
            if not isinstance(value, Tensor) or value.ndim != 0:
                raise UserError(f"expected the metric {name} as a tensor of one number, got {show(value)}")
