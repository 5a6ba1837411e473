"""The process group: ranks, collectives, and a network replicated (DDP) or sharded (FSDP2) over it.

Nothing outside `engine/` imports `torch.distributed`, and every function also works in a single process
without a group, where collectives return their input. What processes tell each other about their run (an
error, a stop, a count) goes through gloo between their CPUs, and never waits for a GPU. Parameter names are
compared without the prefixes that wrappers add.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from videomae2.errors import RowError, UserError

Item = TypeVar("Item")
Shared = UserError | RowError | OSError
"""Errors that one process tells the others: each of them raises the same."""

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
    summed([0])


def any_true(flag: Tensor) -> Tensor:
    """The maximum of a float flag, 0 or 1 on the device, over all ranks, in place; the host does not wait."""
    # A maximum, since NCCL has no logical or.
    if in_group():
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return flag


def mean(values: Tensor) -> Tensor:
    """The mean over ranks of a float tensor on the device."""
    # A sum and a division, since gloo, the backend for CPUs, has no mean.
    if in_group():
        dist.all_reduce(values)
        values = values / world_size()
    return values


# ---- what processes tell each other, between their CPUs


def summed(numbers: Sequence[int]) -> list[int]:
    """The sum over ranks of each number."""
    return _reduced(numbers, greatest=False)


def greatest(numbers: Sequence[int]) -> list[int]:
    """The maximum over ranks of each number."""
    return _reduced(numbers, greatest=True)


def _reduced(numbers: Sequence[int], greatest: bool) -> list[int]:
    if not in_group():
        return list(numbers)
    return [int(number) for number in add_up(torch.tensor(list(numbers), dtype=torch.int64), greatest)]


def add_up(tensor: Tensor, greatest: bool = False) -> Tensor:
    """The sum over ranks, or the maximum, of each number of a tensor on the CPU, in place."""
    if in_group():
        how = dist.ReduceOp.MAX if greatest else dist.ReduceOp.SUM
        # In pieces, since gloo takes as much memory again as it is given at once.
        for piece in tensor.view(-1).split(1 << 20):
            dist.all_reduce(piece, op=how, group=_between_cpus())
    return tensor


def all_objects(item: Item) -> list[Item]:
    """All-gather of one Python object a rank, ordered by rank; it is pickled, so keep it small."""
    if not in_group():
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item, group=_between_cpus())
    return items


def agree(error: Shared | None) -> None:
    """Raise on every rank the error of the lowest rank that has one. Collective."""
    first = next((each for each in all_objects(error) if each is not None), None)
    if first is None:
        return
    # The own error, if it is the same: it knows where it came from.
    raise error if error is not None and str(error) == str(first) else first


def together(work: Callable[[], Item]) -> Item:
    """Call `work` on every rank; what one raises, all raise. Collective; `work` itself must not be."""
    # Raised on one rank alone, an error would leave the others waiting in their next collective.
    error: Shared | None = None
    result: Any = None
    try:
        result = work()
    except (UserError, RowError, OSError) as raised:
        error = raised
    agree(error)
    return cast(Item, result)


def on_main(work: Callable[[], object]) -> None:
    """Call `work` on rank 0 alone, while the others wait; what it raises, all raise. Collective."""
    together(lambda: work() if is_main() else None)


def with_neighbours(items: Tensor, before: int, after: int) -> Tensor:
    """This rank's items, behind the last `before` items of the rank before, before the first of the next.

    What one rank asks for, its neighbour asks for, too: as many of the other side.
    """
    if not before and not after:
        return items
    sides = [(rank() - 1, items[:before], before), (rank() + 1, items[len(items) - after :], after)]
    taken = [torch.empty_like(mine) for _, mine, _ in sides]
    work = [
        dist.P2POp(how, tensor.contiguous(), peer)
        for (peer, mine, count), theirs in zip(sides, taken, strict=True)
        for how, tensor in ((dist.isend, mine), (dist.irecv, theirs))
        if count
    ]
    for each in dist.batch_isend_irecv(work):
        each.wait()
    return torch.cat([taken[0], items, taken[1]])


_made: list[Any] = []  # a default group without gloo, and the group that was made beside it


def _between_cpus() -> Any:
    """The group for tensors on CPUs: the default one, unless a program of a user's own began it with NCCL."""
    if "cpu:" in dist.get_backend_config():
        return None
    world = dist.group.WORLD
    if not _made or _made[0] is not world:
        _made[:] = [world, dist.new_group(backend="gloo")]
    return _made[1]


# ---- a network over the ranks


def building_device(shard: str) -> str:
    """Where this rank builds its network: "meta" where it will hold a shard of what rank 0 builds."""
    # One network a machine fits where eight of them do not: `sharded` sends each rank its part.
    return "meta" if shard != "none" and not is_main() else "cpu"


def distribute(network: nn.Module, shard: str, precision: str, device: torch.device) -> nn.Module:
    """The network over all ranks on `device`, as `run.shard` says; without a group the network itself.

    "none" replicates it (DDP). "full" keeps on each rank a shard of all parameters, gradients and moments,
    and gathers a block at a time (FSDP2); "grad" leaves blocks gathered from the forward to the backward.
    `precision` "bf16" gathers parameters in bf16 and reduces gradients in fp32.
    """
    if not in_group():
        return network
    return replicate(network) if shard == "none" else sharded(network, shard == "full", precision, device)


def replicate(network: nn.Module) -> nn.Module:
    """The network under DDP: every rank holds all parameters and gradients are averaged."""
    # Buffers are position tables and pixel statistics, the same on every rank, so a broadcast would only cost
    # time. Without it a forward outside training involves no collective, and ranks may evaluate unequal
    # numbers of batches without waiting for each other forever.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # its new name is not in 2.11
        return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)


def sharded(
    network: nn.Module, reshard_after_forward: bool, precision: str, device: torch.device
) -> nn.Module:
    """The network under FSDP2, in place: each block of a `ModuleList` is one unit, what remains another.

    Ranks whose network is on the meta device get their shards from rank 0.
    """
    # Inputs are not cast, since autocast decides that: the residual stream stays in fp32 as it does under
    # DDP. A network that runs a part of itself in fp32 finds its parameters there in fp32, too.
    everything_in_bf16 = precision == "bf16" and not getattr(network, "decoder_fp32", False)
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if everything_in_bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    # It warns of what the layers never do: writing into what a block has returned.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    whole = dict(network.named_parameters()) | dict(network.named_buffers())
    mesh = init_device_mesh(device.type, (world_size(),))
    # Blocks before the root: a unit takes the parameters that no unit inside it has taken. One block a unit
    # means that at most a block or two of the parameters are gathered at a time.
    for block in blocks_of(network):
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    _fill_from_main(network, whole, device)
    return network


@torch.no_grad()
def _fill_from_main(network: nn.Module, whole: dict[str, Tensor], device: torch.device) -> None:
    """Give every shard, on all ranks, the values of `whole` on rank 0: one tensor is sent at a time."""
    if not greatest([any(tensor.is_meta for tensor in whole.values())])[0]:
        return  # every rank has built the network itself
    if not is_main():
        network.to_empty(device=device)
    own = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, full in whole.items():
        sent = full.to(device) if is_main() else torch.empty(full.shape, dtype=full.dtype, device=device)
        dist.broadcast(sent, 0)
        target = own[name]
        if isinstance(target, DTensor):
            sent = distribute_tensor(
                sent, target.device_mesh, target.placements, src_data_rank=None
            ).to_local()
        local(target).copy_(sent)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of every `ModuleList` in a network: the units that are compiled and sharded."""
    lists = (module for module in network.modules() if isinstance(module, nn.ModuleList))
    return [block for each in lists for block in each]


def in_step(batches: Iterable[Item], network: nn.Module, blank: Item) -> Iterator[tuple[Item, bool]]:
    """Each batch of this rank with True; then `blank` with False while other ranks still have batches.

    `blank` is only for FSDP2, where every forward all-gathers parameters and so every rank must run equally
    many. Other networks involve no collective outside training, and there ranks meet after their last batch.
    What the batches of one rank raise, all raise.
    """
    # A blank batch and no copy of a real one: its result is dropped, so that no row is counted twice.
    iterator, lockstep = iter(batches), isinstance(network, FSDPModule)
    following: Item | None = None
    error: Shared | None = None
    while True:
        try:
            following = next(iterator, None)
        except (UserError, RowError, OSError) as raised:
            following, error = None, raised
        if not lockstep:
            if following is None:
                break
            yield following, True
            continue
        going, failed = greatest([following is not None, error is not None])
        if failed or not going:
            break
        yield (blank, False) if following is None else (following, True)
    agree(error)


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
