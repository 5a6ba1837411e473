from typing import cast

import pytest
import torch
from torch import nn

from videomae2.engine.optim import build_optimizer, decays, parameter_groups
from videomae2.errors import UserError
from videomae2.settings import OptimSettings


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod.autoencoder."])
def test_what_never_decays(prefix: str) -> None:
    matrix, vector, scale = torch.zeros(3, 3), torch.zeros(3), torch.zeros(4, 1, 1)
    assert decays(prefix + "encoder.blocks.0.attn.qkv.weight", matrix)
    assert not decays(prefix + "encoder.blocks.0.norm1.weight", vector)
    assert not decays(prefix + "encoder.blocks.0.attn.q_bias", vector)
    assert not decays(prefix + "encoder.blocks.0.attn.scale", scale)
    assert not decays(prefix + "mask_token", torch.zeros(1, 1, 3))
    assert not decays(prefix + "encoder.pos_embed", torch.zeros(1, 8, 3))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 2))
        self.head = nn.Linear(2, 2)


def test_compiling_does_not_change_the_groups() -> None:
    plain, compiled = (
        parameter_groups(Net(), 0.05),
        parameter_groups(cast(nn.Module, torch.compile(Net())), 0.05),
    )
    assert [(g["names"], g["weight_decay"]) for g in plain] == [
        (g["names"], g["weight_decay"]) for g in compiled
    ]
    assert [(g["names"], g["weight_decay"]) for g in plain] == [
        (["mask_token", "head.bias"], 0.0),
        (["head.weight"], 0.05),
    ]


def test_frozen_parameters_are_left_out() -> None:
    net = Net()
    net.head.requires_grad_(False)
    assert [g["names"] for g in parameter_groups(net, 0.05)] == [["mask_token"]]
    net.mask_token.requires_grad_(False)
    with pytest.raises(UserError, match=r"nothing to train"):
        parameter_groups(net, 0.05)


def test_the_optimizer_is_fused_adamw_with_the_settings() -> None:
    optimizer = build_optimizer(Net(), OptimSettings(betas=(0.8, 0.9), eps=1e-7))
    assert (
        optimizer.defaults["fused"]
        and optimizer.defaults["betas"] == (0.8, 0.9)
        and optimizer.defaults["eps"] == 1e-7
    )
