"""Linear layers: in which type they compute, and bias and GELU in one pass with the matmul where oneDNN can
do so.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Bf16Linear(nn.Linear):
    """A linear layer that keeps its weights in bf16, and takes and gives what nn.Linear does under bf16
    autocast.
    """

    def forward(self, input: Float[Tensor, "*B D"]) -> Float[Tensor, "*B O"]:
        """Inputs of any floating type; bf16 comes back."""
        return super().forward(input.to(self.weight.dtype))


def matmul_dtype(weight: Tensor) -> torch.dtype:
    """What a linear layer of this weight computes in: autocast's type inside autocast, else its own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def linear(
    x: Float[Tensor, "... D"], weight: Float[Tensor, "O D"], bias: Float[Tensor, "O"], gelu: bool = False
) -> Float[Tensor, "... O"]:
    """`x weight^T + bias` in autocast's type, through an exact GELU if `gelu`; nothing is saved for a
    backward pass.

    In bf16 on a CPU torch writes the bias to every row before the matmul, and GELU reads and rounds its input
    again: a quarter to a half of the matmul's time. oneDNN does both while a result is still in registers.
    """
    dtype = matmul_dtype(weight)
    if dtype == torch.bfloat16 and onednn_fuses():
        activation = "gelu" if gelu else "none"
        return torch.ops.mkldnn._linear_pointwise(
            x.to(dtype), weight.to(dtype), bias.to(dtype), activation, [], "none"
        )
    out = F.linear(x.to(dtype), weight.to(dtype), bias.to(dtype))
    return torch.ops.aten.gelu_(out) if gelu else out


def onednn_fuses() -> bool:
    """Whether this torch was built with the operation that its own compiler uses, and this processor has bf16
    arithmetic.
    """
    operations = torch.ops.mkldnn
    return hasattr(operations, "_linear_pointwise") and operations._is_mkldnn_bf16_supported()
