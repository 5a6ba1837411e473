"""Small networks and clips that the tests of this folder share."""

from typing import Any

import torch
from torch import Tensor, nn

from videomae2 import chance
from videomae2.architecture import token_grid
from videomae2.masking import draw_split
from videomae2.models.autoencoder import Autoencoder
from videomae2.models.build import build_autoencoder
from videomae2.records import TokenSplit
from videomae2.settings import MaskSettings, ModelSettings

MASK = MaskSettings(encoder_ratio=0.75)


def settings(**changes: Any) -> ModelSettings:
    """A ViT-Ti of 2 blocks, 48 wide, on 64 tokens of 8 x 32 x 32 pixels; its native grid is its own."""
    base: dict[str, Any] = {
        "name": "vit_ti16",
        "num_frames": 8,
        "size": 32,
        "patch": 8,
        "width": 48,
        "depth": 2,
        "decoder_width": 24,
    }
    base |= {"decoder_depth": 2, "native_frames": 8, "native_size": 32}
    return ModelSettings(**(base | changes))


def network(seed: int = 0, **changes: Any) -> Autoencoder:
    return build_autoencoder(settings(**changes), chance.torch_generator(seed))


def frames(batch: int = 2, seed: int = 0, **changes: Any) -> Tensor:
    shape = token_grid(settings(**changes)).clip_shape(batch)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=chance.torch_generator(seed))


def split(batch: int = 2, mask: MaskSettings = MASK, **changes: Any) -> TokenSplit:
    return draw_split(token_grid(settings(**changes)), mask, torch.arange(batch))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter's gradient; a parameter without one fails the test."""
    found = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found
