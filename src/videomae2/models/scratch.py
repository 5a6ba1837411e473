"""Memory for values that are gone when a function returns, kept from call to call on a CPU.

A C library gives a tensor the next free place that is long enough. Wide values that come and go between those
that stay for the backward pass leave holes there, and a training step then holds a third more memory than its
tensors. A GPU's allocator sorts its blocks by size and needs no such help.
"""

import math
import threading

import torch
from torch import Tensor

_kept = threading.local()


def scratch(slot: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor of `like`'s type and device; on a CPU the same thread's next call for `slot`
    overwrites it.

    What is computed in it must not outlive the caller.
    """
    if like.device.type != "cpu":
        return like.new_empty(shape)
    slots: dict[tuple[str, torch.dtype], Tensor] = _kept.__dict__.setdefault("slots", {})
    count = math.prod(shape)
    held = slots.get((slot, like.dtype))
    if held is None or held.numel() < count:
        slots.pop((slot, like.dtype), None)  # gone before the larger one comes
        with torch.inference_mode(False):  # what is made inside could not be written outside
            held = slots[slot, like.dtype] = torch.empty(count, dtype=like.dtype)
    return held[:count].view(shape)
