"""Where and how precisely a forward runs, and where its chance comes from."""

import contextlib
from collections.abc import Iterator

import torch

from videomae2.errors import UserError


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
