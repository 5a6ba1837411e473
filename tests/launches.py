"""Several processes that run one command line, as torchrun starts them; forked: torch is imported once.

A test of torchrun itself starts it (`tests/engine/test_launch.py`); these have its environment.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videomae2.cli.main import main

FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Ended:
    """How one process ended: its exit code, and what it wrote."""

    code: int | None
    out: str
    err: str


def free_port() -> int:
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment_of(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    return {**{name: str(value) for name, value in names.items()}, "MASTER_ADDR": "127.0.0.1"}


def slurm_environment_of(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What srun sets, in a job of which this is the only step."""
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_STEP_NUM_TASKS": str(world_size),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_JOB_ID": str(port),
        "SLURM_STEP_ID": "0",
    }


def in_processes(
    world_size: int,
    work: Callable[[int], Any],
    folder: Path,
    environment: Callable[[int, int, int], Mapping[str, str]] = environment_of,
    seconds: float = 300,
) -> list[Ended]:
    """Call `work` with its rank in each process; its result is the exit code, None is 0. None hangs."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()

    def process(rank: int) -> None:
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
        os.environ.update(environment(rank, world_size, port))
        torch.set_num_threads(1)
        faulthandler.dump_traceback_later(seconds - 5, file=sys.stderr)  # says where it hangs
        sys.exit(work(rank) or 0)

    started = [FORK.Process(target=process, args=(rank,)) for rank in range(world_size)]
    for each in started:
        each.start()
    deadline = time.monotonic() + seconds
    for each in started:
        each.join(max(0.0, deadline - time.monotonic()))
    hanging = [rank for rank, each in enumerate(started) if each.exitcode is None]
    for each in started:
        each.kill()
        each.join()
    ended = [
        Ended(each.exitcode, (folder / f"{rank}.out").read_text(), (folder / f"{rank}.err").read_text())
        for rank, each in enumerate(started)
    ]
    assert not hanging, f"ranks {hanging} hang: {[each.err[-2000:] for each in ended]}"
    return ended


def command(world_size: int, words: list[str], folder: Path, **others: Any) -> list[Ended]:
    """The command line `words`, in each of these processes."""
    return in_processes(world_size, lambda _: main(words), folder, **others)
