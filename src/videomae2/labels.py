"""Targets: what rows are labelled with, one record a kind, chosen by the task and carried by `Batch[target]`.

A target holds B clips; that of one clip holds B = 1. `one(...)` makes the target of one clip, `stack` joins
those of several. A kind of your own is a frozen dataclass of tensors [B, ...] that subclasses `Target`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videomae2.errors import UserError
from videomae2.placement import Placement
from videomae2.shapes import Record, check_indices, check_tensor, readable

UNKNOWN = -1
"""The class of a row that has none, among rows that have one."""


T = TypeVar("T", bound="Target")
T_co = TypeVar("T_co", bound="Target", covariant=True)
"""The target of a batch: `Batch[Classes]` can stand wherever `Batch[Target]` is expected."""


@dataclass(frozen=True, repr=False)
class Target(Record):
    """Base of the kinds below: tensors whose first axis counts clips, unless the kind says otherwise."""

    def __len__(self) -> int:
        """B, the number of clips."""
        return len(getattr(self, fields(self)[0].name))

    @classmethod
    def stack(cls: type[T], parts: Sequence[T]) -> T:
        """The targets of several clips as one, in order; UserError where only some have an optional field."""
        joined: dict[str, Tensor | None] = {}
        for name in (field.name for field in fields(cls)):
            values = [getattr(part, name) for part in parts]
            if all(value is None for value in values):
                joined[name] = None
            elif any(value is None for value in values):
                raise UserError(f"expected {name} for all clips of a batch or for none, got it for some")
            else:
                joined[name] = torch.cat(values)  # every part has the axis of clips already
        return cls(**joined)

    def placed(self: T, placement: Placement) -> T:  # noqa: ARG002 - kinds with a place use it
        """The target of one clip as seen through its placement: the same, unless the kind has a place."""
        return self


@dataclass(frozen=True, repr=False)
class Unlabelled(Target):
    """No target, for `count` clips: what pre-training learns from."""

    count: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 0:
            raise UserError(f"expected a count of clips from 0 on, got {self.count!r}")

    def __len__(self) -> int:
        return self.count

    @classmethod
    def stack(cls, parts: Sequence["Unlabelled"]) -> "Unlabelled":
        """As many clips as all parts have together."""
        return cls(sum(part.count for part in parts))


@dataclass(frozen=True, repr=False)
class Classes(Target):
    """One class a clip: int64 [B], -1 where it is unknown."""

    index: Int[Tensor, "B"]

    def __post_init__(self) -> None:
        check_indices("the classes", self.index, "B")
        if readable(self.index) and bool((self.index < UNKNOWN).any()):
            raise UserError(f"expected classes from 0 on, or -1 for unknown, got {int(self.index.min())}")

    @classmethod
    def one(cls, index: int) -> "Classes":
        """The class of one clip."""
        return cls(torch.tensor([index]))


@dataclass(frozen=True, repr=False)
class MultiClasses(Target):
    """Several classes a clip: float [B, K], 1 (or a share of certainty) where a class holds, else 0."""

    hot: Float[Tensor, "B K"]

    def __post_init__(self) -> None:
        check_tensor("the classes", self.hot, "float", "B K")
        if readable(self.hot) and not bool(((self.hot >= 0) & (self.hot <= 1)).all()):
            raise UserError("expected for each class a number from 0 to 1, got one outside")

    @classmethod
    def one(cls, classes: Sequence[int], num_classes: int) -> "MultiClasses":
        """The classes of one clip, by number; UserError for one outside 0 .. num_classes - 1."""
        hot = torch.zeros(1, num_classes)
        for index in classes:
            if not 0 <= index < num_classes:
                raise UserError(f"expected classes from 0 to {num_classes - 1}, got {index}")
            hot[0, index] = 1
        return cls(hot)


@dataclass(frozen=True, repr=False)
class Numbers(Target):
    """One or more measured numbers a clip: float [B, M], in the unit of the task."""

    values: Float[Tensor, "B M"]

    def __post_init__(self) -> None:
        check_tensor("the numbers", self.values, "float", "B M")

    @classmethod
    def one(cls, *values: int | float) -> "Numbers":
        """The numbers of one clip."""
        return cls(torch.tensor([values], dtype=torch.float32))


@dataclass(frozen=True, repr=False)
class Ragged(Target):
    """Base of the kinds with a varying number of things a clip: the things of all clips in one row, in order.

    `counts` [B] says how many belong to each clip, `labels` int64 [A] the class of each thing or float
    [A, K] several classes of each, `scores` float [A] how sure a prediction is. Not padded: pooling over
    boxes gathers by `clip`, and a loss over things needs no mask of what is padding.
    """

    counts: Int[Tensor, "B"]
    labels: Int[Tensor, "A"] | Float[Tensor, "A K"] | None = None
    scores: Float[Tensor, "A"] | None = None

    def _check(self, things: str, total: int) -> None:
        check_indices(f"the counts of {things}", self.counts, "B")
        if readable(self.counts) and int(self.counts.sum()) != total:
            raise UserError(f"expected counts that add up to {total} {things}, got {int(self.counts.sum())}")
        if isinstance(self.labels, Tensor) and self.labels.ndim == 2:
            check_tensor(f"the labels of {things}", self.labels, "float", "A K", A=total)
        elif self.labels is not None:
            check_indices(f"the labels of {things}", self.labels, "A", A=total)
        if self.scores is not None:
            check_tensor(f"the scores of {things}", self.scores, "float", "A", A=total)

    @property
    def clip(self) -> Int[Tensor, "A"]:
        """To which clip of the batch each thing belongs: what pooling over boxes gathers by."""
        return torch.repeat_interleave(self.counts)


@dataclass(frozen=True, repr=False, kw_only=True)
class Boxes(Ragged):
    """Boxes [A, 4] as (x0, y0, x1, y1): in pixels of the source before `placed`, of the clip after it."""

    xyxy: Float[Tensor, "A 4"]

    def __post_init__(self) -> None:
        check_tensor("boxes (x0, y0, x1, y1)", self.xyxy, "float", "A 4")
        self._check("boxes", len(self.xyxy))
        if readable(self.xyxy) and bool((self.xyxy[:, 2:] < self.xyxy[:, :2]).any()):
            raise UserError(
                "a box ends before it starts; give boxes as (x0, y0, x1, y1) with x1 >= x0 and y1 >= y0"
            )

    @classmethod
    def one(cls, xyxy: Tensor, labels: Tensor | None = None, scores: Tensor | None = None) -> "Boxes":
        """The boxes of one clip."""
        return cls(xyxy=xyxy, counts=torch.tensor([len(xyxy)]), labels=labels, scores=scores)

    def placed(self, placement: Placement) -> "Boxes":
        """The boxes of one clip in its pixels, cut off at its edges; those outside are dropped."""
        if len(self) != 1:
            raise UserError(f"expected the boxes of one clip to place, got those of {len(self)} clips")
        xyxy, survives = placement.to_clip(self.xyxy)
        kept = (None if part is None else part[survives] for part in (self.labels, self.scores))
        return Boxes.one(xyxy[survives], *kept)


@dataclass(frozen=True, repr=False, kw_only=True)
class Segments(Ragged):
    """Time segments [A, 2] as (start, end) in seconds from the start of the row's video."""

    seconds: Float[Tensor, "A 2"]

    def __post_init__(self) -> None:
        check_tensor("segments (start, end)", self.seconds, "float", "A 2")
        self._check("segments", len(self.seconds))
        if readable(self.seconds) and bool((self.seconds[:, 1] < self.seconds[:, 0]).any()):
            raise UserError(
                "a segment ends before it starts; give segments as (start, end) with end >= start"
            )

    @classmethod
    def one(cls, seconds: Tensor, labels: Tensor | None = None, scores: Tensor | None = None) -> "Segments":
        """The segments of one clip."""
        return cls(seconds=seconds, counts=torch.tensor([len(seconds)]), labels=labels, scores=scores)
