"""Memory for values that are gone when a function returns, kept from call to call.

A C library gives a tensor the next free place that is long enough. Wide values that come and go between those
that are saved for the backward pass leave holes there, and a training step then holds a third more memory
than its tensors.
"""

import math
import threading
from typing import Any

import torch
from torch import Tensor


class Scratch:
    """A network's places, one for each slot, type and thread.

    They belong to this object: a copy, or one that was pickled, starts without any.
    """

    def __init__(self) -> None:
        self._threads = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return Scratch, ()

    def __call__(self, slot: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised tensor on the CPU; the same thread's next call for `slot` overwrites it.

        What is computed in it must not outlive the caller.
        """
        slots: dict[tuple[str, torch.dtype], Tensor] = self._threads.__dict__.setdefault("slots", {})
        count = math.prod(shape)
        held = slots.get((slot, dtype))
        if held is None or held.numel() < count:
            slots.pop((slot, dtype), None)  # freed before the larger one is allocated
            with torch.inference_mode(False):  # what is made inside could not be written to outside
                held = slots[slot, dtype] = torch.empty(count, dtype=dtype, device="cpu")
        return held[:count].view(shape)
