"""The sinusoid table, bit for bit."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from videomae2.geometry import TokenGrid
from videomae2.positions import position_table, sinusoid


@pytest.mark.parametrize("name", ["64x48", "128x24"])
def test_sinusoid_is_bit_equal_to_the_released_table(golden: Path, name: str) -> None:
    table = load_file(golden / "sinusoid_positions.safetensors")[name]
    assert torch.equal(sinusoid(*table.shape), table)


def test_table_of_the_native_grid_is_bit_equal_to_one_computed_number_by_number() -> None:
    """The released code fills the table in Python floats; every twentieth token of the published grid's."""
    grid, width = TokenGrid(), 768
    table = position_table(grid, grid, width)[::20]
    for row, token in zip(table, range(0, grid.num_tokens, 20), strict=True):
        angles = [token / np.power(10000, 2 * (j // 2) / width) for j in range(width)]
        expected = [math.sin(angle) if j % 2 == 0 else math.cos(angle) for j, angle in enumerate(angles)]
        assert torch.equal(row, torch.tensor(expected, dtype=torch.float64).float())
