"""Processes that train together: the few questions the engine asks about them, and how a network is spread.

Nothing outside `engine/` imports `torch.distributed`. Every question has an answer where there is one
process. The order in which a network is wrapped is fixed: CPU kernels, activation checkpointing, compile,
then `replicate` (DDP) or `shard` (FSDP2). Names are compared without the prefixes that wrappers add.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from videomae2.errors import UserError

Item = TypeVar("Item")

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
    """1.0 on every process where `flag`, a float of 0 or 1 on the device, is 1 on any; does not synchronise."""
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


def all_objects(item: Item) -> list[Item]:
    """What every process passed in, by rank, on every process; through pickle, so for small things."""
    if not in_group():
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


# ---- a network over processes


def replicate(network: nn.Module) -> nn.Module:
    """The network under DDP: every process holds all of it and gradients are averaged. Alone: as it is.

    Buffers are position tables and pixel statistics, the same everywhere, so they are not broadcast: a
    forward without gradients then exchanges nothing, and processes may evaluate unequal numbers of batches.
    """
    if not in_group():
        return network
    return DistributedDataParallel(network, broadcast_buffers=False)


def shard(network: nn.Module) -> nn.Module:
    """The network under FSDP2, in place: each block of a `ModuleList` is one unit, what remains is
    another.
    """
    if not in_group():
        return network
    for module in list(network.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block)
    fully_shard(network)
    return network


def bare(network: nn.Module) -> nn.Module:
    """The network inside DDP; any other as it is (FSDP2 and `compile` work in place)."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def on_main(work: Callable[[], object]) -> None:
    """Do something on the main process alone, and raise what the user did wrong there on every process."""
    error: UserError | None = None
    if is_main():
        try:
            work()
        except UserError as raised:
            error = raised
    error = all_objects(error)[0]
    if error is not None:
        raise error


def in_step(batches: Iterable[Item], network: nn.Module, blank: Item) -> Iterator[tuple[Item, bool]]:
    """Each batch of this process with True; then `blank` with False while another process still has some.

    A sharded network gathers its parameters at each forward, so every process must call it equally often. Any
    other network exchanges nothing without gradients, and there each process stops when it is done.
    """
    if not isinstance(network, FSDPModule):
        for batch in batches:
            yield batch, True
        return
    iterator, device = iter(batches), next(network.parameters()).device
    while True:
        following = next(iterator, None)
        if not any_process(following is not None, device):
            return
        yield (blank, False) if following is None else (following, True)


@contextmanager
def exchanging(network: nn.Module, exchange: bool) -> Iterator[None]:
    """Inside, a backward exchanges gradients or only adds them up: accumulation exchanges in its last
    forward.
    """
    quiet: AbstractContextManager[Any] = nullcontext()
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(exchange)
    elif isinstance(network, DistributedDataParallel) and not exchange:
        quiet = network.no_sync()
    with quiet:
        yield


def reshard(network: nn.Module) -> None:
    """Drop gathered parameters: FSDP2 keeps its root's after a forward, and would reuse values since
    overwritten.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(value: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """A sharded tensor gathered on every process; any other as it is. (FSDP2's gradient norm is a
    DTensor.)
    """
    return value.full_tensor() if isinstance(value, DTensor) else value


def bare_name(name: str) -> str:
    """A parameter's name without what compile, DDP or checkpoint wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
