"""Device, autocast and random seed of a forward, and how glibc keeps memory that tensors have freed."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch

from videomae2.errors import UserError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc
_DEFAULTS = ((_M_MMAP_MAX, 65536), (_M_TRIM_THRESHOLD, 128 << 10), (_M_TOP_PAD, 128 << 10))  # mallopt(3)
_GROW_BY = 64 << 20
"""Bytes by which the heap grows at a time: large enough that a training step needs few system calls."""


def choose_device(name: str = "auto") -> torch.device:
    """The device that "auto", "cpu" or "cuda" names on this machine, with its index.

    UserError for another name, or for "cuda" where there is no CUDA device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"expected device auto, cpu or cuda, got {name!r}; try auto")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("expected a CUDA device for run.device 'cuda', got none; try --device cpu, or auto")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        # With its index, so that comparisons with a tensor's device hold and each rank has its own GPU.
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """The device as people call it: "the CPU (8 threads)", or the name of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"the CPU ({threads} thread{'s' if threads > 1 else ''})"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast where `precision` is "bf16"; a context that changes nothing for "fp32".

    fp16 is not offered: on a CPU it is a hundred times slower, and on a GPU it would need loss scaling, which
    bf16, with the exponent range of fp32, does not.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def precision_note(device: torch.device, precision: str, option: str = "--run.precision") -> str:
    """A note to print where bf16 is slower than fp32: on an x86 CPU without bf16 instructions; else empty.

    `option` is the command's own option for the precision.
    """
    if device.type != "cpu" or precision != "bf16":
        return ""
    # A note and not an error: the results are right, and a run that began elsewhere must be able to resume
    # here, where another precision would be another run. Without the instructions torch emulates bf16 by
    # converting to fp32 and back. Older torch has no `get_capabilities`, and then nothing is known.
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if has.get("architecture") != "x86_64" or has.get("avx512_bf16") or has.get("amx_bf16"):
        return ""
    return f"note: this processor has no bf16 instructions, so fp32 is faster here: add {option} fp32"


@contextlib.contextmanager
def seeded(key: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators of the CPU and of this device with `key`, and restore their states afterwards.

    Drop path and dropout draw from these generators and take no generator as an argument. Seeding them makes
    both a function of (seed, step), like everything else that is random.
    """
    # Not `torch.random.fork_rng`, which by default saves the state of every GPU that the process can see.
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()  # `default_generators` is empty until CUDA is initialised
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(key)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def keep_freed_memory() -> bool:
    """Let glibc reuse the memory of freed tensors for the rest of the process; True where that succeeded.

    By default glibc returns every freed block above 32 MiB to the system at once, and the next step gets it
    back zeroed, one page fault per 4 KiB: a GELU over 38 MB then takes five times as long as its arithmetic.
    Nothing is changed on other systems, or where the user has set glibc's own variables.
    """
    if platform.system() != "Linux" or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    # No block is mapped on its own (a mapped block goes back to the system when it is freed), the top of the
    # heap is never trimmed (mallopt takes an int, so this is the largest threshold there is), and the heap
    # grows in large pieces. Training frees and allocates the same sizes at every step, so the heap stops
    # growing after the first.
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _GROW_BY))
    done = [mallopt(option, value) == 1 for option, value in options]
    return all(done)


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, `keep_freed_memory`; afterwards glibc's defaults again, and what is free goes back at once.

    For a user's own program, whose memory is not ours to keep.
    """
    if not keep_freed_memory():
        yield
        return
    try:
        yield
    finally:
        glibc = ctypes.CDLL(None)
        for option, value in _DEFAULTS:
            glibc.mallopt(option, value)
        glibc.malloc_trim(0)
