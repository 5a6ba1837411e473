"""A tiny network of each kind with random values everywhere, a clip for it, and comparisons."""

import json
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from videomae2.chance import torch_generator
from videomae2.heads.classify import Classifier, build_classifier
from videomae2.models.autoencoder import Autoencoder
from videomae2.models.build import build_autoencoder
from videomae2.settings import ModelSettings

M = TypeVar("M", bound=nn.Module)

TINY = ModelSettings(
    num_frames=8, size=32, patch=8, native_frames=8, native_size=32,
    width=48, depth=2, num_heads=3, decoder_width=24, decoder_heads=2, decoder_depth=2,
)  # fmt: skip
CLIP = torch.rand(2, 8, 3, 32, 32, generator=torch_generator(5))


def autoencoder(seed: int = 1, settings: ModelSettings = TINY) -> Autoencoder:
    return stirred(build_autoencoder(settings), seed)


def classifier(num_classes: int = 7, seed: int = 2, settings: ModelSettings = TINY) -> Classifier:
    return stirred(build_classifier(settings, num_classes), seed)


def stirred(model: M, seed: int) -> M:
    """Random values everywhere, zero biases and unit gains too, so that a lost tensor changes the output."""
    generator = torch_generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def hub_folder(folder: Path, model: Classifier) -> Path:
    """A repository like OpenGVLab/VideoMAEv2-Base: names under `model.`, no head, no final norm, fc_norm."""
    folder.mkdir()
    state = {
        f"model.{n.removeprefix('encoder.')}": t
        for n, t in model.state_dict().items()
        if not n.startswith("head.")
    }
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    inner = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
        "tubelet_size": 2,
        "num_frames": 8,
    }
    config = {
        "model_type": "VideoMAEv2_Base",
        "model_config": inner | {"use_mean_pooling": True, "num_classes": 0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
