"""The process group: ranks, collectives, and a network replicated (DDP) or sharded (FSDP2) over it.

Nothing outside `engine/` imports `torch.distributed`, and every function also works in a single process
without a group, where collectives return their input. A network is wrapped in one fixed order: CPU kernels,
activation checkpointing, compile, then `replicate` or `shard`. Parameter names are compared without the
prefixes that these wrappers add.
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
    """Whether a process group is initialised (torchrun started this process)."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's rank in the group; 0 without one."""
    return dist.get_rank() if in_group() else 0


def world_size() -> int:
    """Number of processes in the group; 1 without one."""
    return dist.get_world_size() if in_group() else 1


def is_main() -> bool:
    """Whether this is rank 0, which alone writes logs, state and final weights into the run's folder."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank has called this."""
    if in_group():
        dist.barrier()


def any_true(flag: Tensor) -> Tensor:
    """The maximum of a float flag, 0 or 1 on the device, over all ranks, in place; the host does not wait."""
    # A maximum, since NCCL has no logical or.
    if in_group():
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return flag


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true on any rank. In a group the host waits for the collective."""
    # The tensor is on the network's device because NCCL communicates from GPU memory alone.
    return bool(any_true(torch.tensor(float(flag), device=device))) if in_group() else flag


def mean(values: Tensor) -> Tensor:
    """The mean over ranks of a float tensor on the device."""
    # A sum and a division, since gloo, the backend for CPUs, has no mean.
    if in_group():
        dist.all_reduce(values)
        values = values / world_size()
    return values


def all_objects(item: Item) -> list[Item]:
    """All-gather of one Python object a rank, ordered by rank; it is pickled, so keep it small."""
    if not in_group():
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


# ---- a network over the ranks


def replicate(network: nn.Module) -> nn.Module:
    """The network under DDP: every rank holds all parameters and gradients are averaged.

    Without a group the network itself.
    """
    if not in_group():
        return network
    # Buffers are position tables and pixel statistics, the same on every rank, so a broadcast would only cost
    # time. Without it a forward outside training involves no collective, and ranks may evaluate unequal
    # numbers of batches without waiting for each other forever.
    return DistributedDataParallel(network, broadcast_buffers=False)


def shard(network: nn.Module) -> nn.Module:
    """The network under FSDP2, in place; without a group the network as it is.

    Each block of a `ModuleList` is one unit of sharding, what remains is another.
    """
    if not in_group():
        return network
    # Blocks before the root: a unit takes the parameters that no unit inside it has taken. One block a unit
    # means that at most a block or two of the parameters are gathered at a time.
    for module in list(network.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block)
    fully_shard(network)
    return network


def on_main(work: Callable[[], object]) -> None:
    """Call `work` on rank 0 alone, and raise a UserError from it on every rank. Collective."""
    # Raised on rank 0 alone, the error would leave the others waiting in their next collective until it
    # times out.
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
    """Each batch of this rank with True; then `blank` with False while other ranks still have batches.

    `blank` is only for FSDP2, where every forward all-gathers parameters and so every rank must run equally
    many. Other networks involve no collective outside training, and there each rank stops when it is done.
    """
    if not isinstance(network, FSDPModule):
        for batch in batches:
            yield batch, True
        return
    # A blank batch and no copy of a real one: its result is dropped, so that no row is counted twice.
    iterator, device = iter(batches), next(network.parameters()).device
    while True:
        following = next(iterator, None)
        if not any_process(following is not None, device):
            return
        yield (blank, False) if following is None else (following, True)


@contextmanager
def exchanging(network: nn.Module, exchange: bool) -> Iterator[None]:
    """Whether the backward inside averages gradients over ranks or only accumulates them locally.

    Gradient accumulation averages once per optimizer step, in its last backward. DDP decides in the forward,
    which therefore belongs inside too.
    """
    # FSDP2 takes a flag on the network, DDP a context. The flag is set at every call, so nothing has to
    # restore it where a step failed.
    quiet: AbstractContextManager[Any] = nullcontext()
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(exchange)
    elif isinstance(network, DistributedDataParallel) and not exchange:
        quiet = network.no_sync()
    with quiet:
        yield


def reshard(network: nn.Module) -> None:
    """Free the gathered parameters of a sharded network, so that its next forward gathers them anew."""
    # FSDP2 leaves its root's parameters gathered after a forward, since a backward would need them at once.
    # After an evaluation no backward follows, and the next forward would compute with the gathered values
    # although the shards have since been overwritten, by the average or by the trained weights put back.
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(value: Tensor) -> Tensor:
    """This rank's shard of a DTensor, sharing its memory; any other tensor as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """A DTensor all-gathered on every rank; any other tensor as it is.

    Parameters under FSDP2 are DTensors, and so is the norm of their gradients.
    """
    return value.full_tensor() if isinstance(value, DTensor) else value


def bare_name(name: str) -> str:
    """A parameter's name without the parts that compile, DDP and activation checkpointing insert."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
