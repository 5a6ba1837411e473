"""A linear layer of which nothing is kept: with bias and GELU in one pass, where oneDNN can do so."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from videomae2.models.modes import product_dtype


def linear(
    x: Float[Tensor, "... D"], weight: Float[Tensor, "O D"], bias: Float[Tensor, "O"], gelu: bool = False
) -> Float[Tensor, "... O"]:
    """`x weight^T + bias` in autocast's type, through an exact GELU if asked for; without gradients.

    In bf16 on a CPU torch writes the bias to every row before it multiplies, and GELU rounds and reads its
    input again: a quarter to a half of the product's time. oneDNN does both before a product leaves the
    registers.
    """
    dtype = product_dtype(weight)
    if x.device.type == "cpu" and dtype == torch.bfloat16 and _onednn_fuses():
        activation = "gelu" if gelu else "none"
        return torch.ops.mkldnn._linear_pointwise(
            x.to(dtype), weight.to(dtype), bias.to(dtype), activation, [], "none"
        )
    out = F.linear(x, weight, bias)
    return torch.ops.aten.gelu_(out) if gelu else out


def layer(x: Float[Tensor, "... D"], module: nn.Linear, gelu: bool = False) -> Float[Tensor, "... O"]:
    """As `linear`, of a module; one that was swapped for another kind, or is watched by a hook, is called
    itself.
    """
    if type(module) is nn.Linear and not (module._forward_hooks or module._forward_pre_hooks):
        return linear(x, module.weight, module.bias, gelu)
    out = module(x)
    return F.gelu(out) if gelu else out


def _onednn_fuses() -> bool:
    """Whether this torch was built with the operation that its own compiler uses, and this processor has bf16
    arithmetic.
    """
    operations = torch.ops.mkldnn
    return hasattr(operations, "_linear_pointwise") and operations._is_mkldnn_bf16_supported()
