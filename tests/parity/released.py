"""Golden files recorded from the released code, and our networks carrying their weights."""

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from videomae2.architecture import DecoderConfig, EncoderConfig
from videomae2.geometry import TokenGrid
from videomae2.heads.classify import Classifier
from videomae2.models.autoencoder import Autoencoder, Decoder
from videomae2.models.encoder import Encoder

M = TypeVar("M", bound=nn.Module)
PRETRAIN = (
    "pretrain_dual_p8",
    "pretrain_dual_p14_wide_mlp",
    "pretrain_dual_quarter",
    "pretrain_encoder_only",
    "pretrain_dual_cosattn_layerscale",
)
CLASSIFY = ("classify_mean_pool", "classify_p14_wide_mlp")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """A golden file as its configuration, its recorded tensors and its weights."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    weights = {
        name.removeprefix("weights."): tensors.pop(name)
        for name in list(tensors)
        if name.startswith("weights.")
    }
    return config, tensors, weights


def frames(tensors: dict[str, Tensor]) -> Tensor:
    """The recorded clip [B, C, T, H, W] in [0, 1] with our axes [B, T, C, H, W]."""
    return tensors["clip01"].transpose(1, 2).contiguous()


def autoencoder(config: dict[str, Any], weights: dict[str, Tensor]) -> Autoencoder:
    """Our pre-training network with the recorded weights: their names are ours."""
    extra = {"cosine_attention": config.get("cos_attn", False), "layer_scale": config.get("init_values", 0.0)}
    encoder = encoder_config(
        config, config["encoder_dim"], config["encoder_depth"], config["encoder_heads"], **extra
    )
    width = config["decoder_dim"]
    decoder = DecoderConfig(
        width=width,
        depth=config["decoder_depth"],
        num_heads=config["decoder_heads"],
        mlp_width=round(width * config["mlp_ratio"] - 1e-9),
        **extra,
    )
    return loaded(Autoencoder(Encoder(encoder), Decoder(decoder, encoder.grid, encoder.native)), weights)


def classifier(config: dict[str, Any], weights: dict[str, Tensor]) -> Classifier:
    """Our classifier with the recorded weights, whose encoder has no prefix in the released layout."""
    encoder = Encoder(
        encoder_config(config, config["dim"], config["depth"], config["heads"]), final_norm=False
    )
    ours = {
        name if name.startswith(("fc_norm.", "head.")) else f"encoder.{name}": value
        for name, value in weights.items()
    }
    return loaded(Classifier(encoder, config["num_classes"]), ours)


def encoder_config(
    config: dict[str, Any], width: int, depth: int, num_heads: int, **extra: Any
) -> EncoderConfig:
    """The recorded grid is the native one: the released table is made for the network's own size."""
    grid = TokenGrid.square(
        config["num_frames"], config["img_size"], config["tubelet_size"], config["patch_size"]
    )
    mlp_width = round(width * config["mlp_ratio"])
    return EncoderConfig(
        grid=grid, native=grid, width=width, depth=depth, num_heads=num_heads, mlp_width=mlp_width, **extra
    )


def loaded(module: M, weights: dict[str, Tensor]) -> M:
    module.load_state_dict(weights, strict=True)
    return module


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest recorded value."""
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def global_norm(module: nn.Module) -> Tensor:
    """Norm of all gradients together."""
    norms = torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None])
    return norms.square().sum().sqrt().reshape(1)
