"""The running cell's phase, for every start pointer, on three grids and at three ratios."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from videomae2.geometry import TokenGrid
from videomae2.masking import running_cell_kept

GRIDS = {"4x4x4": (8, 64, 16), "8x14x14": (16, 224, 16), "8x16x16": (16, 224, 14)}


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("name", GRIDS)
def test_running_cell_is_the_released_one(golden: Path, name: str, ratio: float) -> None:
    frames, size, patch = GRIDS[name]
    dropped = load_file(golden / "running_cell_masks.safetensors")[f"running_cell_{name}_{ratio}"].bool()
    kept = running_cell_kept(TokenGrid.square(frames, size, patch=patch), ratio, torch.arange(4))
    assert torch.equal(kept, ~dropped.flatten(1))
