"""Chance is a function, not a state: every random number follows from (seed, purpose, epoch, row, view).

Keys are 64-bit integers mixed by SplitMix64 (Steele, Lea, Flood 2014): the same bits on every device and for
any number of workers or processes, so that a run can be resumed at any row. Nothing here reads or writes a
global generator.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_MASK = (1 << 64) - 1  # Python's integers are unbounded: arithmetic modulo 2**64
# The increment and the two multipliers of SplitMix64.
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def key(seed: int, *parts: int | str) -> int:
    """One non-negative 63-bit key from a seed and what it is for: `key(seed, "crop", epoch, row, view)`.

    Order matters, and so does every part.
    """
    state = _mix(seed & _MASK)
    for part in parts:
        # Not `hash`, which Python salts anew in every process.
        number = (
            int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "big")
            if isinstance(part, str)
            else part
        )
        state = _mix((state + _GAMMA + _mix(number & _MASK)) & _MASK)
    return state >> 1  # generators take non-negative int64 seeds


def keys(base: int, *parts: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
    """One key for each sample of a batch: `keys(key(seed, "mask", epoch), rows, views)`.

    int64 [B] over all 64 bits, on the device of the parts; a sample's key does not depend on the others.
    """
    state = torch.full_like(parts[0], _signed(base))
    for part in parts:
        state = _mix_tensor(state + _signed(_GAMMA) + _mix_tensor(part))
    return state


def uniform(sample_keys: Int[Tensor, "B"], count: int) -> Float[Tensor, "B count"]:
    """Draw `count` float64 numbers in [0, 1) for each key, bit-equal on every device.

    The first of them do not depend on `count`.
    """
    steps = torch.arange(1, count + 1, device=sample_keys.device, dtype=torch.int64) * _signed(_GAMMA)
    bits = _mix_tensor(sample_keys[:, None] + steps)
    # The upper 53 bits fill the significand of a float64 exactly, so no number rounds up to 1.
    return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def keys_from(generator: torch.Generator, batch: int) -> Int[Tensor, "B"]:
    """Draw keys from a generator that the caller owns, on the generator's device."""
    return torch.randint(0, 2**62, (batch,), generator=generator, device=generator.device)


def torch_generator(key_number: int) -> torch.Generator:
    """A CPU generator of torch, seeded by a key."""
    return torch.Generator().manual_seed(key_number)


def numpy_generator(key_number: int) -> np.random.Generator:
    """A NumPy generator, seeded by a key."""
    # PCG64 by name: `default_rng` may change its bit generator between versions of NumPy.
    return np.random.Generator(np.random.PCG64(key_number))


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def _mix_tensor(z: Tensor) -> Tensor:
    # int64 multiplication wraps around, which is what `_mix` gets from its mask.
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX_2)
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift of int64: torch's own is arithmetic and would copy the sign bit into the upper bits."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The int64 with the same bits as this unsigned number: torch has no unsigned 64-bit arithmetic."""
    number &= _MASK
    return number - (1 << 64) if number >> 63 else number
