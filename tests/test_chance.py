"""Chance is a function: a key gives the same numbers anywhere, another gives others, nothing global moves."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from videomae2 import chance

numbers = st.integers(0, 2**62)


@given(numbers, numbers, numbers)
def test_keys_repeat_and_differ(seed: int, epoch: int, row: int) -> None:
    assert chance.key(seed, "crop", epoch, row) == chance.key(seed, "crop", epoch, row)
    assert 0 <= chance.key(seed, "crop", epoch, row) < 2**63
    assert chance.key(seed, "crop", epoch, row) != chance.key(seed, "flip", epoch, row)
    assert chance.key(seed, "crop", epoch, row) != chance.key(seed, "crop", epoch, row + 1)
    assert chance.key(seed, epoch, row) != chance.key(seed, row, epoch) or epoch == row


def test_keys_are_fixed_for_ever() -> None:
    """Runs resume across versions only if these numbers never change."""
    assert chance.key(7, "mask", 3) == 2536437062789359603
    assert chance.keys(5, torch.tensor([3]), torch.tensor([1])).tolist() == [4928358390666660648]
    assert chance.uniform(torch.tensor([12345]), 2).tolist() == [[0.1330796686614273, 0.20481663336165912]]


def test_sample_keys_do_not_depend_on_the_batch() -> None:
    rows, views = torch.arange(10), torch.arange(10) % 4
    whole = chance.keys(5, rows, views)
    assert torch.equal(chance.keys(5, rows[3:7], views[3:7]), whole[3:7])
    assert len(set(whole.tolist())) == 10


def test_uniform_numbers_are_uniform_and_independent() -> None:
    draw = chance.uniform(chance.keys(1, torch.arange(2000)), 50)
    assert draw.dtype == torch.float64
    assert float(draw.min()) >= 0 and float(draw.max()) < 1
    histogram = torch.histc(draw, 20, 0, 1) / draw.numel()
    assert float((histogram - 0.05).abs().max()) < 0.003
    correlation = torch.corrcoef(draw.T).fill_diagonal_(0)
    assert float(correlation.abs().max()) < 0.12
    assert torch.equal(chance.uniform(chance.keys(1, torch.arange(2000)), 10), draw[:, :10])


def test_generators_come_from_keys_and_leave_the_global_ones_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), _numpy_state()
    first, second = (torch.rand(3, generator=chance.torch_generator(9)) for _ in range(2))
    assert torch.equal(first, second)
    assert chance.numpy_generator(9).random() == chance.numpy_generator(9).random()
    keys = chance.keys_from(chance.torch_generator(9), 4)
    assert torch.equal(keys, chance.keys_from(chance.torch_generator(9), 4)) and len(set(keys.tolist())) == 4
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert _numpy_state() == numpy_state


def _numpy_state() -> str:
    return repr(np.random.get_state())  # noqa: NPY002
