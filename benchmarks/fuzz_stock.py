"""Good files of every kind that the fuzzing starts from: videos in many containers, weights in many layouts,
runs that ended and one that did not. All of them tiny.
"""

import json
import shlex
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from videomae2.cli.main import main

SIZE, FRAMES = 32, 8
DATA = ["--data.stride", "1", "--data.workers", "0"]
MODEL = shlex.split(
    "--model.name vit_ti16 --model.width 24 --model.depth 1 --model.num_heads 3 --model.patch 8 "
    "--model.num_frames 4 --model.size 32 --model.native_frames 4 --model.native_size 32"
)
TRAINING = shlex.split(
    "--optim.batch_size 2 --optim.length 1 --optim.warmup 0 --run.precision fp32 --run.device cpu "
    "--run.no_tensorboard"
)
DECODER = shlex.split(
    "--model.decoder_depth 1 --model.decoder_width 24 --model.decoder_heads 3 --mask.decoder random"
)
EVALUATION = shlex.split("--device cpu --precision fp32 --data.test_clips 1 --data.test_crops 1")

# Container, encoder, pixel format. What this FFmpeg cannot write is left out.
ENCODINGS = (
    ("mp4", "libx264", "yuv420p"), ("mkv", "libx264", "yuv420p"), ("mov", "libx264", "yuv444p"),
    ("ts", "libx264", "yuv420p"), ("h264", "libx264", "yuv420p"), ("flv", "libx264", "yuv420p"),
    ("mp4", "libx265", "yuv420p"), ("hevc", "libx265", "yuv420p"), ("mkv", "libx265", "yuv420p10le"),
    ("webm", "libvpx", "yuv420p"), ("webm", "libvpx-vp9", "yuv420p"), ("ivf", "libvpx", "yuv420p"),
    ("avi", "mpeg4", "yuv420p"), ("3gp", "mpeg4", "yuv420p"), ("m4v", "mpeg4", "yuv420p"),
    ("mpg", "mpeg2video", "yuv420p"), ("vob", "mpeg2video", "yuv420p"), ("m2ts", "mpeg2video", "yuv420p"),
    ("mov", "mjpeg", "yuvj420p"), ("mov", "prores", "yuv422p10le"), ("avi", "ffv1", "yuv420p"),
    ("mkv", "rawvideo", "rgb24"), ("mov", "png", "rgba"), ("wmv", "wmv2", "yuv420p"),
    ("asf", "msmpeg4", "yuv420p"), ("flv", "flv", "yuv420p"), ("ogv", "libtheora", "yuv420p"),
    ("gif", "gif", "rgb8"), ("mkv", "huffyuv", "rgb24"), ("mp4", "libaom-av1", "yuv420p"),
    ("avi", "rawvideo", "gray"),
)  # fmt: skip


@dataclass(frozen=True)
class Stock:
    """Where the good files are."""

    folder: Path

    @property
    def videos(self) -> list[Path]:
        """One video of each encoding, by name."""
        return sorted((self.folder / "videos").iterdir())

    @property
    def plain(self) -> Path:
        """An ordinary video."""
        return self.folder / "videos" / "mp4_libx264_yuv420p.mp4"

    @property
    def frames(self) -> Path:
        """A folder of JPEGs and PNGs, img_00001.jpg and on."""
        return self.folder / "frames"

    @property
    def classes(self) -> Path:
        """A folder of class folders."""
        return self.folder / "classes"

    @property
    def weights(self) -> list[Path]:
        """Files and folders, one of each layout."""
        return sorted((self.folder / "weights").iterdir())

    def run(self, name: str) -> Path:
        """The folder of a run: pretrained, finetuned, unfinished or evaluated."""
        return self.folder / "runs" / name


def build(folder: Path) -> None:
    """Make them, once; for a process of its own, because it computes."""
    stock = Stock(folder)
    (folder / "videos").mkdir(parents=True)
    for ending, encoder, pixels in ENCODINGS:
        _write_video(folder / "videos" / f"{ending}_{encoder}_{pixels}.{ending}", encoder, pixels)
    stock.frames.mkdir()
    for number in range(1, FRAMES + 1):
        for ending in ("jpg", "png"):
            Image.fromarray(_picture(number)).save(stock.frames / f"img_{number:05}.{ending}")
    for number in range(4):
        target = stock.classes / ("jump", "run")[number % 2] / f"{number}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stock.plain, target)
    _write_runs(stock)
    _write_weights(stock)


def training(command: str, out: str) -> list[str]:
    """The tokens of a training run on the class folders."""
    decoder = DECODER if command == "pretrain" else []
    return [command, *MODEL, *decoder, *DATA, *TRAINING, "--out", out]


def _write_runs(stock: Stock) -> None:
    def run(*tokens: str) -> None:
        if code := main(list(tokens)):
            raise RuntimeError(f"the stock could not be made: {' '.join(tokens)} ended with {code}")

    for command, name in (("pretrain", "pretrained"), ("finetune", "finetuned")):
        out = str(stock.run(name))
        run(*training(command, out), "--data.train", str(stock.classes), "--optim.ema_decay", "0.5")
    unfinished = stock.run("unfinished")
    run(*training("finetune", str(unfinished)), "--data.train", str(stock.classes), "--optim.length", "3",
        "--run.checkpoint_every", "1", "--run.keep_last", "3")  # fmt: skip
    for name in ("model.safetensors", "finished.json"):
        (unfinished / name).unlink()
    shutil.rmtree(unfinished / "checkpoints" / "step-3")
    weights, val = str(stock.run("finetuned")), str(stock.classes)
    run("evaluate", "--weights", weights, "--data.val", val, *DATA, *EVALUATION,
        "--out", str(stock.run("evaluated")))  # fmt: skip


def _write_weights(stock: Stock) -> None:
    folder = stock.folder / "weights"
    folder.mkdir()
    for name in ("pretrained", "finetuned"):
        source = str(stock.run(name) / "model.safetensors")
        shutil.copy(source, folder / f"{name}.safetensors")
        main(["weights", "convert", source, str(folder / f"{name}.pth"), "--layout", "released"])
        main(["weights", "convert", source, str(folder / f"{name}_hf"), "--layout", "transformers"])
    state = load_file(folder / "finetuned.safetensors")
    bare = {name.removeprefix("encoder."): tensor for name, tensor in state.items()}
    torch.save(
        {
            "state_dict": {f"model.{n}": t for n, t in bare.items()},
            "epoch": 3,
            "pytorch-lightning_version": "2.4.0",
            "loops": {},
            "callbacks": {},
            "hyper_parameters": {"lr": 1e-3},
            "optimizer_states": [],
        },
        folder / "lightning.ckpt",
    )
    torch.save(
        {
            "state_dict": {_in_mmaction(n): t for n, t in bare.items()},
            "message_hub": {},
            "meta": {"epoch": 1, "iter": 10},
            "param_schedulers": [],
        },
        folder / "mmengine.pth",
    )
    torch.save({f"module.{n}": t for n, t in bare.items()}, folder / "bare.bin")
    torch.save(bare, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    hub = folder / "hub"
    hub.mkdir()
    headless = {f"model.{n}": t for n, t in bare.items() if not n.startswith("head.")}
    save_file(headless, hub / "model.safetensors", {"format": "pt"})
    inner = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3, "tubelet_size": 2,
             "num_frames": 4, "use_mean_pooling": True, "num_classes": 0}  # fmt: skip
    (hub / "config.json").write_text(json.dumps({"model_type": "VideoMAEv2_Base", "model_config": inner}))


def _in_mmaction(name: str) -> str:
    if name.startswith("head."):
        return f"cls_head.fc_cls.{name.removeprefix('head.')}"
    for ours, theirs in (("patch_embed.proj", "patch_embed.projection"), ("mlp.fc1", "mlp.layers.0.0"),
                         ("mlp.fc2", "mlp.layers.1")):  # fmt: skip
        name = name.replace(ours, theirs)
    return f"backbone.{name}"


def _picture(number: int) -> np.ndarray[Any, Any]:
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    return np.stack([rows * 7 + number * 9, columns * 7, (rows + columns) * 3], -1).astype(np.uint8)


def _write_video(path: Path, encoder: str, pixels: str) -> None:
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(encoder, rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, pixels
            stream.codec_context.thread_count = 1
            for number in range(FRAMES):
                frame = av.VideoFrame.from_ndarray(_picture(number), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except (av.error.FFmpegError, ValueError, AttributeError):
        path.unlink(missing_ok=True)
