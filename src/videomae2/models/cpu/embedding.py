"""The cube embedding on raw pixels: mean and standard deviation are folded into its weights."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from videomae2.cubes import Frames, gather_cubes
from videomae2.models.cpu.linear import matmul_dtype
from videomae2.models.cpu.seam import is_ordinary, is_untouched
from videomae2.models.tokenizer import CubeEmbedding, Tokenizer


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

    def forward(self, frames: Frames, tokens: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "B M D"]:
        """Embeddings of `tokens` (None: all) of a clip, uint8 or float in [0, 1]."""
        if not (is_ordinary(frames) and is_untouched(self.proj, CubeEmbedding, Bf16CubeEmbedding)):
            return super().forward(frames, tokens)
        cubes = gather_cubes(frames, self.config.grid, tokens).flatten(2)
        weight, bias = self._raw_weights(white=255 if cubes.dtype == torch.uint8 else 1)
        dtype = torch.bfloat16 if type(self.proj) is Bf16CubeEmbedding else matmul_dtype(weight)
        return F.linear(cubes.to(dtype), weight.flatten(1).to(dtype), bias.to(dtype))

    def _raw_weights(self, white: int) -> tuple[Float[Tensor, "D C t p q"], Float[Tensor, "D"]]:
        """Weights for pixels of 0 to `white`: (x / white - mean) / std is folded into them."""
        scaled = self.proj.weight / self.std
        assert self.proj.bias is not None
        return scaled / white, self.proj.bias - (scaled * self.mean).sum((1, 2, 3, 4))
