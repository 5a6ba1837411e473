"""A few tiny videos of two motions, and settings small enough to train on them in a second."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from videomae2.recipes.train import run_task
from videomae2.settings import (
    DataSettings,
    FinetuneData,
    FinetuneModel,
    FinetuneOptim,
    FinetuneSettings,
    MaskSettings,
    ModelSettings,
    OptimSettings,
    PretrainData,
    PretrainSettings,
    RunSettings,
)

MODEL = ModelSettings(
    name="vit_ti16", num_frames=8, size=32, patch=8, width=48, depth=2, num_heads=3,
    decoder_depth=1, decoder_width=24, decoder_heads=3, native_frames=8, native_size=32,
)  # fmt: skip
DATA = DataSettings(stride=1, workers=0, rand_augment="", erasing=0.0, test_clips=2, test_crops=3)
OPTIM = OptimSettings(batch_size=2, length=2, warmup=0, base_lr=1e-2)
RUN = RunSettings(device="cpu", precision="fp32", tensorboard=False, log_every=1)


def write_video(path: Path, step: int, num_frames: int = 12, size: tuple[int, int] = (40, 48)) -> Path:
    """An MP4 of a bright square that moves `step` pixels a frame over a gradient."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    ground = np.linspace(30, 120, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            picture = ground.copy()
            left = (width // 2 + step * number) % (width - 10)
            picture[12:24, left : left + 10] = 240
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_classes(folder: Path, each: int = 3) -> Path:
    """A folder of two class folders, left and right; the files in both have the same names."""
    for name, step in (("left", -2), ("right", 2)):
        for number in range(each):
            write_video(folder / name / f"{number}.mp4", step * (number + 1))
    return folder


def pretrain_settings(videos: Path, out: Path, **changes: Any) -> PretrainSettings:
    """Two steps of pre-training, two views of each video."""
    data = replace(DATA, train=str(videos), val=str(videos), repeated_views=2, crop="multi_scale", flip=False)
    mask = MaskSettings(encoder_ratio=0.75)
    return replace(
        PretrainSettings(
            MODEL, PretrainData(**vars(data)), mask, optim=OPTIM, run=replace(RUN, out=str(out))
        ),
        **changes,
    )


def as_before_its_end(run: Path, copy: Path) -> Path:
    """A copy of a finished run as it was before it wrote its weights."""
    shutil.copytree(run, copy)
    for name in ("model.safetensors", "model_without_ema.safetensors", "finished.json"):
        (copy / name).unlink()
    return copy


def finetune_settings(videos: Path, out: Path, init: str = "", **changes: Any) -> FinetuneSettings:
    """Two steps of fine-tuning, averaged weights beside."""
    data = replace(DATA, train=str(videos), val=str(videos), repeated_views=2)
    optim = replace(OPTIM, ema_decay=0.5, layer_decay=0.75)
    settings = FinetuneSettings(
        FinetuneModel(**vars(replace(MODEL, drop_path=0.1))),
        FinetuneData(**vars(data)),
        FinetuneOptim(**vars(optim)),
        replace(RUN, out=str(out)),
        init=init,
    )
    return replace(settings, **changes)


@dataclass(frozen=True)
class SmallRuns:
    """Videos, and a finished run of each kind on them."""

    videos: Path
    pretrained: Path
    finetuned: Path


def make_runs(folder: Path) -> SmallRuns:
    """Pre-train on a few videos, then fine-tune from that."""
    videos = write_classes(folder / "videos")
    pretrained = run_task(pretrain_settings(videos, folder / "pretrain"))
    finetuned = run_task(finetune_settings(videos, folder / "finetune", str(pretrained)))
    return SmallRuns(videos, pretrained, finetuned)
