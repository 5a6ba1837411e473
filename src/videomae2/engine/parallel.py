"""The few questions the engine asks about other processes; each has an answer when there are none.

Model code holds no distribution: DDP or FSDP2 (`fully_shard`) wrap a task from outside, before it is given to
`train`, in the order activation checkpointing, compile, shard. Names are compared without the prefixes that
wrappers add.
"""

import torch
import torch.distributed as dist
from torch import Tensor

_WRAPPERS = ("_orig_mod", "module", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def in_group() -> bool:
    """Whether a process group exists (torchrun started this process and it was initialised)."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if in_group() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if in_group() else 1


def is_main() -> bool:
    """Whether this process writes the run's folder."""
    return rank() == 0


def barrier() -> None:
    """Wait for every process; nothing when alone."""
    if in_group():
        dist.barrier()


def any_true(flag: Tensor) -> Tensor:
    """1.0 on every process where `flag`, a float of 0 or 1 on the device, is 1 on any; does not wait for the device."""
    if in_group():
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return flag


def any_process(flag: bool, device: torch.device) -> bool:
    """The same for a Python bool, which does wait when there are others."""
    return bool(any_true(torch.tensor(float(flag), device=device))) if in_group() else flag


def mean(values: Tensor) -> Tensor:
    """The mean over processes of a float tensor on the device."""
    if in_group():
        dist.all_reduce(values)
        values = values / world_size()
    return values


def whole(value: Tensor) -> Tensor:
    """A sharded tensor gathered; any other as it is. (FSDP2's gradient norm is a DTensor.)"""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def bare_name(name: str) -> str:
    """A parameter's name without what compile, DDP or checkpoint wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
