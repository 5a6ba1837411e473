"""Chance is a function, not a state: every random number follows from a key made of (seed, purpose, epoch,
row, view).

Keys are 64-bit integers mixed by SplitMix64 (Steele, Lea, Flood 2014), the same bits on every device and for
any number of workers or processes. Nothing here reads or writes a global generator.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def key(seed: int, *parts: int | str) -> int:
    """One non-negative 63-bit key from a seed and what it is for, such as `key(seed, "crop", epoch, row,
    view)`.
    """
    state = _mix(seed & _MASK)
    for part in parts:
        number = (
            int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "big")
            if isinstance(part, str)
            else part
        )
        state = _mix((state + _GAMMA + _mix(number & _MASK)) & _MASK)
    return state >> 1


def keys(base: int, *parts: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
    """Keys for many samples at once: `keys(key(seed, "mask", epoch), rows, views)`; int64 [B] on the device
    of the parts.
    """
    state = torch.full_like(parts[0], _signed(base))
    for part in parts:
        state = _mix_tensor(state + _signed(_GAMMA) + _mix_tensor(part))
    return state


def uniform(sample_keys: Int[Tensor, "B"], count: int) -> Float[Tensor, "B count"]:
    """`count` float64 numbers in [0, 1) for each key, the same on every device."""
    steps = torch.arange(1, count + 1, device=sample_keys.device, dtype=torch.int64) * _signed(_GAMMA)
    bits = _mix_tensor(sample_keys[:, None] + steps)
    return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def keys_from(generator: torch.Generator, batch: int) -> Int[Tensor, "B"]:
    """Keys drawn from a generator the caller owns, on the generator's device."""
    return torch.randint(0, 2**62, (batch,), generator=generator, device=generator.device)


def torch_generator(key_number: int) -> torch.Generator:
    """A CPU generator seeded by a key."""
    return torch.Generator().manual_seed(key_number)


def numpy_generator(key_number: int) -> np.random.Generator:
    """A NumPy generator seeded by a key."""
    return np.random.Generator(np.random.PCG64(key_number))


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def _mix_tensor(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX_2)
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """A logical shift: torch's own is arithmetic and would smear the sign bit."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    number &= _MASK
    return number - (1 << 64) if number >> 63 else number
