"""Linear layers: in which type they compute, and bias and GELU in one pass with the matmul."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Bf16Linear(nn.Linear):
    """A linear layer that keeps its weights in bf16, and computes what nn.Linear does under bf16 autocast."""

    def forward(self, input: Float[Tensor, "*B D"]) -> Float[Tensor, "*B O"]:
        """Inputs of any floating type; bf16 comes back."""
        return super().forward(input.to(self.weight.dtype))


def matmul_dtype(weight: Tensor) -> torch.dtype:
    """Type in which a linear layer of this weight computes: autocast's inside autocast, else its own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def linear(
    x: Float[Tensor, "... D"], weight: Float[Tensor, "O D"], bias: Float[Tensor, "O"], gelu: bool = False
) -> Float[Tensor, "... O"]:
    """`x weight^T + bias` in autocast's type, through an exact GELU if `gelu`; without gradients.

    In bf16 on a CPU torch writes the bias to every row before the matmul, and GELU reads and rounds its input
    again: a quarter to a half of the matmul's time. oneDNN does both while a result is still in registers.
    """
    dtype = matmul_dtype(weight)
    if dtype == torch.bfloat16 and onednn_fuses():
        activation = "gelu" if gelu else "none"
        given = x.to(dtype), weight.to(dtype), bias.to(dtype)
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(*given, activation, [], "none")
        return fused
    out = F.linear(x.to(dtype), weight.to(dtype), bias.to(dtype))
    if gelu:
        torch.ops.aten.gelu_(out)  # in place: what comes out of a fresh matmul nobody else has seen
    return out


def onednn_fuses() -> bool:
    """Whether torch was built with the operation, and this processor has bf16 arithmetic."""
    operations = torch.ops.mkldnn
    return hasattr(operations, "_linear_pointwise") and bool(operations._is_mkldnn_bf16_supported())
