"""Where and how precisely a forward runs, where its randomness comes from, and how a CPU's memory is kept."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch

from videomae2.errors import UserError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc
_GROW_BY = 64 << 20


def choose_device(name: str = "auto") -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here, with its number. UserError if there is no such
    device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is {name!r}, but it takes one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("run.device is 'cuda', but torch sees no CUDA device; use --device cpu, or auto")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast where `precision` is "bf16", nothing for "fp32". Never fp16: on a CPU it is a hundred
    times slower.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def precision_note(device: torch.device, precision: str, option: str = "--run.precision") -> str:
    """What to tell whoever asks for bf16 of an x86 processor without bf16 arithmetic, which is slower than
    fp32; else empty.
    """
    if device.type != "cpu" or precision != "bf16":
        return ""
    # Older torch cannot say.
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if has.get("architecture") != "x86_64" or has.get("avx512_bf16") or has.get("amx_bf16"):
        return ""
    return f"note: this processor has no bf16 arithmetic, so fp32 is faster here: add {option} fp32"


@contextlib.contextmanager
def seeded(key: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's generators of the CPU and of this one device start from `key`; afterwards they are as
    they were.

    Drop path and dropout draw from them, which makes both a function of (seed, step) like everything else
    random.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
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
    """Let glibc reuse the memory of freed tensors for the rest of the process; whether it does.

    By default it hands every block above 32 MiB back to the system at once and gets it again, zeroed page by
    page, at the next step: a GELU over 38 MB then takes five times as long as its arithmetic. Nothing changes
    elsewhere, or where the user has set glibc's own variables.
    """
    if platform.system() != "Linux" or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _GROW_BY))
    done = [mallopt(option, value) == 1 for option, value in options]
    return all(done)
