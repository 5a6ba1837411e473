"""A compiled task keeps its graphs: too many new ones would switch compilation off.

A process of its own, because the shape checks of a test run are Python; the backend that compiles nothing
keeps it short.
"""

import subprocess
import sys

import pytest

COMMON = """
from dataclasses import replace
import torch
from torch._dynamo.utils import counters
from videomae2.labels import Classes, Unlabelled
from videomae2.records import Batch
from videomae2.settings import FinetuneSettings, MaskSettings, ModelSettings, TargetSettings

settings = ModelSettings(
    name="vit_ti16", num_frames=8, size=32, patch=8, depth=2, decoder_depth=2, native_frames=8, native_size=32
)
frames = torch.randint(0, 256, (2, 8, 3, 32, 32), dtype=torch.uint8)
rows = torch.arange(2)

def losses(task, target):
    task.network.train()
    for step in range(12):
        batch = Batch(frames, rows, torch.zeros_like(rows), target, epoch=step)
        task.step(task.network, batch, step).loss.backward()
        yield counters["stats"]["unique_graphs"]

def report(task, target):
    task.network.compile(backend="eager")
    graphs = list(losses(task, target))
    print(graphs[1], graphs[-1], counters["graph_break"] or "no break")
"""
PRETRAIN = """
from videomae2.models.build import build_autoencoder
from videomae2.recipes.pretrain import Pretraining
mask = MaskSettings(encoder_ratio=0.75)
report(Pretraining(build_autoencoder(settings), mask, TargetSettings()), Unlabelled(2))
"""
FINETUNE = """
from videomae2.heads.classify import build_classifier
from videomae2.recipes.finetune import Finetuning
report(Finetuning(build_classifier(replace(settings, drop_path=0.1), 3), FinetuneSettings()), Classes(rows))
"""


RECOMPUTED = FINETUNE.replace("drop_path=0.1", "drop_path=0.1, mlp_checkpointing=True")


@pytest.mark.parametrize(
    ("script", "graphs"),
    [(PRETRAIN, 1), (FINETUNE, 1), (RECOMPUTED, 1)],
    ids=["pretrain", "finetune", "MLPs recomputed"],
)
def test_no_step_makes_a_new_graph(script: str, graphs: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMON + script], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{graphs} {graphs} no break\n", done.stderr[-2000:]
