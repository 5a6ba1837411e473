"""Forward passes are one graph, before and after `cpu.apply`: no step of them falls back to Python.

A process of its own, because the shape checks of a test run are Python; the backend that compiles nothing
keeps it short.
"""

import subprocess
import sys

import pytest

START = """
import torch
from videomae2.architecture import token_grid
from videomae2.heads.classify import build_classifier
from videomae2.masking import draw_split
from videomae2.models import cpu
from videomae2.models.build import build_autoencoder
from videomae2.settings import MaskSettings, ModelSettings

settings = ModelSettings(name="vit_ti16", num_frames=8, size=32, patch=8, depth=2, decoder_depth=2)
grid = token_grid(settings)
clip = torch.randint(0, 256, grid.clip_shape(2), dtype=torch.uint8)
split = draw_split(grid, MaskSettings(encoder_ratio=0.75), torch.arange(2))
path = {"plain": lambda network: network, "cpu": cpu.apply}[PATH]
"""

PROGRAMS = {
    "compile": """
model = path(build_autoencoder(settings))
compiled = torch.compile(model, backend="eager", fullgraph=True)
torch.testing.assert_close(compiled(clip, split), model(clip, split))
""",
    "compile for inference": """
model = path(cpu.for_inference(build_classifier(settings, 5, 1.0), "bf16"))
compiled = torch.compile(model, backend="eager", fullgraph=True)
with torch.no_grad():
    torch.testing.assert_close(compiled(clip), model(clip), rtol=0.05, atol=0.05)
""",
    "export": """
model = path(build_classifier(settings, 5, 1.0)).eval()
exported = torch.export.export(model, (clip,))
torch.testing.assert_close(exported.module()(clip), model(clip))
""",
    "trace": """
model = path(build_classifier(settings, 5, 1.0)).eval()
traced = torch.jit.trace(model, (clip,))
torch.testing.assert_close(traced(255 - clip), model(255 - clip))
""",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", ["plain", "cpu"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_is_one_graph(program: str, path: str) -> None:
    script = START.replace("PATH", repr(path)) + PROGRAMS[program] + "print('one graph')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "one graph\n", done.stderr
