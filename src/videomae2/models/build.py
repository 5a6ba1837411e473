"""Networks from settings, and every initial value, in one place and from one explicit generator."""

import os
from typing import TypeVar

import torch
from torch import nn

from videomae2 import chance
from videomae2.architecture import decoder_config, encoder_config
from videomae2.errors import UserError
from videomae2.models.autoencoder import Autoencoder, Decoder
from videomae2.models.encoder import Encoder, Tokenizer
from videomae2.models.layers import INITIAL_LOG_SCALE, Attention, Block
from videomae2.settings import ModelSettings

M = TypeVar("M", bound=nn.Module)


def build_autoencoder(
    settings: ModelSettings,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    decoder_fp32: bool = False,
) -> Autoencoder:
    """A fresh pre-training network.

    Same generator state, same weights; None is seed 0; device meta is shapes only. `decoder_fp32` keeps the
    decoder in full precision under bf16 autocast.
    """
    with torch.device("meta"):
        config = encoder_config(settings)
        decoder = Decoder(decoder_config(settings), config.grid, config.native)
        model = Autoencoder(Encoder(config), decoder, decoder_fp32)
    return materialize(model, "pretrain", generator, device)


def build_encoder(
    settings: ModelSettings,
    final_norm: bool = True,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Encoder:
    """A fresh encoder, initialised for fine-tuning.

    Without the final norm it is the trunk of a released classifier.
    """
    with torch.device("meta"):
        model = Encoder(encoder_config(settings), final_norm)
    return materialize(model, "finetune", generator, device)


def materialize(model: M, style: str, generator: torch.Generator | None, device: torch.device | str) -> M:
    """Give a network of the meta device memory and initial values, the same on every device.

    UserError where its weights alone are more than this machine's memory.
    """
    if torch.device(device).type == "meta":
        return model
    _must_fit(model)
    model.to_empty(device="cpu")
    initialize(model, style, generator or chance.torch_generator(0))
    return model.to(device)


def _must_fit(model: nn.Module) -> None:
    # The system grants memory that it has not got, and ends the process once it is used: no error would come.
    tensors = [*model.parameters(), *model.buffers()]
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"expected a network that fits {there / 2**30:,.0f} GiB of memory, got one of "
            f"{needed / 2**30:,.0f} GiB of weights; try a smaller model.width, model.depth or model.size"
        )


def initialize(model: nn.Module, style: str, generator: torch.Generator) -> None:
    """Set every parameter and buffer, as released.

    Linear weights: pretrain xavier-uniform, finetune normal with standard deviation 0.02, cut at 2.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            if style == "pretrain":
                nn.init.xavier_uniform_(module.weight, generator=generator)
            else:
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv3d):
            # The released code leaves the cube embedding at torch's own initial values.
            bound = module.weight[0].numel() ** -0.5
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        elif isinstance(module, Attention):
            nn.init.zeros_(module.q_bias)
            nn.init.zeros_(module.v_bias)
            if module.scale is not None:
                nn.init.constant_(module.scale, INITIAL_LOG_SCALE)
        elif isinstance(module, Block):
            for gamma in (module.gamma_1, module.gamma_2):
                if gamma is not None:
                    nn.init.constant_(gamma, module.layer_scale)
        elif isinstance(module, Autoencoder):
            nn.init.trunc_normal_(module.mask_token, std=0.02, a=-0.02, b=0.02, generator=generator)
        elif isinstance(module, Encoder | Decoder | Tokenizer):
            module.reset_buffers()
