"""Linear layers: in which type they compute, bias and GELU in one pass with the matmul; the cube embedding.

The cube embedding takes raw pixels: mean and standard deviation are folded into its weights.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from videomae2.cubes import Frames, gather_cubes
from videomae2.geometry import TokenGrid
from videomae2.models.cpu.seam import is_ordinary, is_untouched
from videomae2.models.encoder import CubeEmbedding, Tokenizer


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
    again: up to half of the matmul's time where a processor has AMX, a few percent where it has none. oneDNN
    does both while a result is still in registers.
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


class Bf16CubeEmbedding(CubeEmbedding):
    """A cube embedding that computes in bf16 under an autocast of its own.

    Its weights stay in fp32, from which `CpuTokenizer` folds others.
    """

    def forward(self, input: Float[Tensor, "*M C T H W"]) -> Float[Tensor, "*M D t h w"]:
        """As CubeEmbedding; bf16 comes back."""
        with torch.autocast(input.device.type, torch.bfloat16):
            return super().forward(input)


class CpuTokenizer(Tokenizer):
    """A tokenizer that spends no pass over the pixels on normalising them."""

    def forward(
        self, frames: Frames, tokens: Int[Tensor, "B M"] | None = None, grid: TokenGrid | None = None
    ) -> Float[Tensor, "B M D"]:
        """Embeddings of `tokens` (None: all) of a clip, uint8 or float in [0, 1]; `grid` None is the own."""
        if not (is_ordinary(frames) and is_untouched(self.proj, CubeEmbedding, Bf16CubeEmbedding)):
            return super().forward(frames, tokens, grid)
        cubes = gather_cubes(frames, grid or self.config.grid, tokens).flatten(2)
        weight, bias = self._raw_weights(white=255 if cubes.dtype == torch.uint8 else 1)
        dtype = torch.bfloat16 if type(self.proj) is Bf16CubeEmbedding else matmul_dtype(weight)
        return F.linear(cubes.to(dtype), weight.flatten(1).to(dtype), bias.to(dtype))

    def _raw_weights(self, white: int) -> tuple[Float[Tensor, "D C t p q"], Float[Tensor, "D"]]:
        """Weights for pixels of 0 to `white`: (x / white - mean) / std is folded into them."""
        scaled = self.proj.weight / self.std
        assert self.proj.bias is not None
        return scaled / white, self.proj.bias - (scaled * self.mean).sum((1, 2, 3, 4))
