"""How this process was started, and the process group that follows: torchrun, Slurm, or alone.

Everything is read from the environment: RANK, WORLD_SIZE and MASTER_ADDR, which torchrun (or a launcher of
one's own) sets, else what `srun` sets. Torch is imported when a group is joined, so that a command line
knows its rank before that.
"""

import atexit
import logging
import os
import re
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from videomae2.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

MEET_SECONDS = 600.0
"""How long the processes of one start wait for each other before they give up."""
WAIT = timedelta(minutes=30)
"""How long a collective waits for a process: rank 0 may write large weights while the others wait."""


@dataclass(frozen=True)
class Launch:
    """One process among `world_size`: its rank, its number on its machine, and where rank 0 is met."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    by_slurm: bool = False


def launch_of(environment: Mapping[str, str]) -> Launch | None:
    """What the environment says about this process; None where it is alone.

    UserError for an environment that names a rank but not where the others are met.
    """
    # torchrun first: it may itself run under srun, one on each machine, and then its own numbers count.
    if "RANK" in environment and "WORLD_SIZE" in environment:
        found = {
            name: _number(environment, name, default)
            for name, default in (("RANK", ""), ("WORLD_SIZE", ""), ("LOCAL_RANK", "0"))
        }
        if found["WORLD_SIZE"] == 1:
            return None
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if not environment.get(name):
                raise UserError(
                    f"expected {name} in the environment, since RANK and WORLD_SIZE are there, got none; "
                    "start with torchrun, or set it to the machine and a free port of rank 0"
                )
        port = _number(environment, "MASTER_PORT", "")
        address = environment["MASTER_ADDR"]
        return Launch(found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], address, port)
    # SLURM_STEP_NUM_TASKS is set by srun alone. In a batch script, which is one process however many tasks
    # its job has, SLURM_PROCID and SLURM_NTASKS are set too, and would promise processes that never come.
    if "SLURM_PROCID" in environment and _number(environment, "SLURM_STEP_NUM_TASKS", "1") > 1:
        hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        job, step = (_number(environment, name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        # A port that every process of this step derives alike, and other steps and jobs hardly share.
        derived = str(20_000 + (job * 31 + step) % 20_000)
        return Launch(
            _number(environment, "SLURM_PROCID", ""),
            _number(environment, "SLURM_STEP_NUM_TASKS", ""),
            _number(environment, "SLURM_LOCALID", "0"),
            environment.get("MASTER_ADDR") or first_host(hosts),
            _number(environment, "MASTER_PORT", derived),
            by_slurm=True,
        )
    return None


def rank_of_environment() -> int:
    """This process's rank by its environment; 0 where it is alone. Needs no torch."""
    launch = launch_of(os.environ)
    return launch.rank if launch else 0


def first_host(hosts: str) -> str:
    """The first machine of a Slurm node list: "gpu[012-015,020]" is gpu012, "a1,a2" is a1."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", hosts)
    if first is None:
        raise UserError(
            "expected the machines of this Slurm step in SLURM_STEP_NODELIST, got none; set MASTER_ADDR to "
            "the machine of rank 0"
        )
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def join(device: str = "auto") -> None:
    """Join the group that the environment names; nothing where there is none, or where one is joined already.

    Every training and every evaluation begins here, so that processes that were started together never work
    alone. `device` is the setting: unless it is "cpu", each process takes its own GPU. The group has gloo for
    tensors on CPUs and NCCL for those on GPUs, and ends with the process. UserError, on every process alike,
    where the others cannot be reached, or a machine has fewer GPUs than processes.
    """
    import torch
    import torch.distributed as dist

    from videomae2.engine import parallel

    launch = None if parallel.in_group() else launch_of(os.environ)
    if launch is None:
        return
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    try:
        store = _store(launch)
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(
            backend, store=store, rank=launch.rank, world_size=launch.world_size, timeout=WAIT
        )
    except RuntimeError as error:  # torch's errors of sockets and stores are all of this class
        raise UserError(
            f"rank {launch.rank} could not meet the other {launch.world_size - 1} processes at "
            f"{launch.address}:{launch.port}: {str(error).splitlines()[0][:200]}; see whether all were "
            "started and reach that machine"
        ) from error
    atexit.register(leave)
    if launch.rank:
        logging.getLogger("videomae2").setLevel(logging.ERROR)  # rank 0 says the same
    # Only now: raised before the group is there, the error of one process would leave the others waiting.
    parallel.together(lambda: _take_gpu(launch, gpus))


def leave() -> None:
    """End the group, if there is one, and if this process has not failed."""
    import torch.distributed as dist

    # The end of an NCCL group waits for the others, who may wait for this process in another collective.
    if dist.is_initialized() and getattr(sys, "last_value", None) is None:
        dist.destroy_process_group()


def abandon() -> None:
    """Let the group end with the process, which has failed on its own and must not wait for the others."""
    atexit.unregister(leave)


def _take_gpu(launch: Launch, gpus: int) -> None:
    """Make this process's GPU the current one."""
    import torch

    if not gpus:
        return
    index = launch.local_rank
    if launch.by_slurm and gpus == 1:
        index = 0  # Slurm may show each task nothing but its own GPU
    if index >= gpus:
        raise UserError(
            f"expected a GPU for each process of a machine, got {gpus} for process {launch.local_rank} of "
            f"rank {launch.rank}; start at most {gpus} a machine (torchrun --nproc-per-node {gpus}), or "
            "use --run.device cpu"
        )
    torch.cuda.set_device(index)


def _store(launch: Launch) -> "Store":
    """Where the processes of this start find each other."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    wait = timedelta(seconds=MEET_SECONDS)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return TCPStore(
            launch.address, launch.port, launch.world_size, is_master=launch.rank == 0, timeout=wait
        )
    # torchrun's own store outlives its processes. After a restart it still holds the addresses that dead
    # ones had written, and whoever reads one of them waits for ever: a prefix of this start avoids that.
    # TORCHELASTIC_RESTART_COUNT is no such prefix, since each machine counts only its own restarts.
    store = TCPStore(launch.address, launch.port, is_master=False, timeout=wait)
    return PrefixStore(f"videomae2/{common_name(store, launch.rank, launch.world_size)}", store)


def common_name(store: "Store", rank: int, world_size: int) -> str:
    """A new name that all living processes agree on, in a store where dead ones have left theirs.

    UserError where some do not come within `MEET_SECONDS`.
    """
    # Every process asks under a word of its own, made now, and rank 0 answers to whatever is asked. Only the
    # living rank 0 can have answered to a word of now, so what a process hears is never an old name; and
    # rank 0 may well answer to dead ones, until each living process has confirmed.
    own = uuid.uuid4().hex
    if rank:
        store.set(f"videomae2/asks/{rank}", own)
        store.wait([f"videomae2/answer/{own}"], timedelta(seconds=MEET_SECONDS))
        name = store.get(f"videomae2/answer/{own}").decode()
        store.set(f"videomae2/heard/{name}/{rank}", "")
        return str(name)
    missing, answered = set(range(1, world_size)), set[bytes]()
    deadline = time.monotonic() + MEET_SECONDS
    while missing:
        for other in sorted(missing):
            if store.check([f"videomae2/heard/{own}/{other}"]):
                missing.discard(other)
            elif store.check([f"videomae2/asks/{other}"]):
                word = store.get(f"videomae2/asks/{other}")
                if word not in answered:
                    answered.add(word)
                    store.set(f"videomae2/answer/{word.decode()}", own)
        if missing and time.monotonic() > deadline:
            raise UserError(
                f"expected {world_size} processes, got none of rank "
                f"{', '.join(map(str, sorted(missing)[:5]))} in {MEET_SECONDS:.0f} s; see why they did not "
                "start"
            )
        time.sleep(0.02)
    return own


def _number(environment: Mapping[str, str], name: str, default: str) -> int:
    value = environment.get(name, default)
    if not value.isdigit():
        raise UserError(
            f"expected a number in the environment's {name}, got {value[:50]!r}; start with torchrun or srun"
        )
    return int(value)
