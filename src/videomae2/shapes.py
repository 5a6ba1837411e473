"""What every record of tensors shares: it prints shapes, checks itself, and moves between devices as one."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from videomae2.errors import UserError

R = TypeVar("R", bound="Record")
"""Of the record that changes, not of its base. (beartype knows no `Self` on a method.)"""


class Record:
    """Base of the frozen dataclasses that hold tensors; a subclass adds fields and checks.

    Fields that are tensors, records or None move together; anything else is carried along as it is.
    """

    def __repr__(self) -> str:
        parts = (f"{f.name}={show(getattr(self, f.name))}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(parts)})"

    def to(self: R, device: torch.device | str) -> R:
        """The same record with its tensors on `device`; the copy from pinned memory does not block."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self: R) -> R:
        """The hook by which `torch.utils.data.DataLoader(pin_memory=True)` pins a record."""
        return self._with_each(lambda tensor: tensor.pin_memory())

    def _with_each(self: R, change: Callable[[Tensor], Tensor]) -> R:
        changed: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):  # type: ignore[arg-type]
            part = getattr(self, name)
            if isinstance(part, Tensor):
                changed[name] = change(part)
            elif isinstance(part, Record):
                changed[name] = part._with_each(change)
        return replace(self, **changed)  # type: ignore[type-var]


def check_tensor(name: str, value: Any, dtypes: str, axes: str, **sizes: int) -> None:
    """Refuse a value that is not a tensor of one of these dtypes and axes; UserError "expected X, got Y".

    `dtypes` are words such as "uint8 or float" (float is any floating type); `axes` are words such as
    "B T C H W", each a name, free unless given in `sizes`, or a number.
    """
    wanted = [sizes.get(axis, int(axis) if axis.isdigit() else None) for axis in axes.split()]
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    fits = isinstance(value, Tensor) and len(shape) == len(wanted) and _is_any(value.dtype, dtypes)
    if not fits or any(want not in (None, size) for want, size in zip(wanted, shape, strict=True)):
        named = ", ".join(
            axis if want is None or axis.isdigit() else f"{axis}={want}"
            for axis, want in zip(axes.split(), wanted, strict=True)
        )
        raise UserError(f"expected {name} as {dtypes} [{named}], got {show(value)}")


def check_indices(name: str, value: Any, axes: str, **sizes: int) -> None:
    """Refuse what is not an int64 tensor of these axes: the type that indexing and gathering take."""
    check_tensor(name, value, "int64", axes, **sizes)


def readable(value: Tensor) -> bool:
    """Whether values can be checked for free: reading them from a GPU would wait for it; meta has none."""
    return value.device.type == "cpu"


def show(value: Any) -> str:
    """A tensor as its type and shape, such as uint8[16, 3, 224, 224]; anything else as its repr."""
    if isinstance(value, Tensor):
        return f"{_word(value.dtype)}{list(value.shape)}"
    return repr(value)


def _is_any(dtype: torch.dtype, words: str) -> bool:
    return any(
        dtype.is_floating_point if word == "float" else _word(dtype) == word for word in words.split(" or ")
    )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
