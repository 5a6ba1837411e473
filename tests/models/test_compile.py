"""The forward pass is one graph: no step of it falls back to Python.

A process of its own, because the shape checks of a test run are Python; the backend that compiles nothing
keeps it short.
"""

import subprocess
import sys

SCRIPT = """
import torch
from videomae2.masking import draw_split
from videomae2.models.build import build_autoencoder
from videomae2.architecture import token_grid
from videomae2.settings import MaskSettings, ModelSettings

settings = ModelSettings(name="vit_ti16", num_frames=8, size=32, patch=8, depth=2, decoder_depth=2)
model, grid = build_autoencoder(settings), token_grid(settings)
clip = torch.randint(0, 256, grid.clip_shape(2), dtype=torch.uint8)
split = draw_split(grid, MaskSettings(encoder_ratio=0.75), torch.arange(2))
compiled = torch.compile(model, backend="eager", fullgraph=True)
torch.testing.assert_close(compiled(clip, split), model(clip, split))
print("one graph")
"""


def test_compilation_sees_one_graph() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout == "one graph\n", done.stderr
