"""From a clip to tokens: normalise and embed cubes of pixels, and only those the encoder is to see."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from videomae2.architecture import EncoderConfig
from videomae2.cubes import Frames, gather_cubes
from videomae2.models.modes import product_dtype


class Tokenizer(nn.Module):
    """The cube embedding. It owns mean and deviation, so that no user of the network can forget or confuse
    them.

    `proj` holds the weight [D, C, t, p, p] of the 3-D convolution that released checkpoints store; as its
    stride is its size, it is one matrix product over the gathered cubes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        cube = (config.grid.tubelet, config.grid.patch, config.grid.patch)
        self.proj = nn.Conv3d(config.grid.channels, config.width, cube, cube)
        self.register_buffer("mean", torch.empty(config.grid.channels, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(config.grid.channels, 1, 1, 1), persistent=False)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Fill the buffers; they are in no checkpoint."""
        for buffer, values in ((self.mean, self.config.mean), (self.std, self.config.std)):
            for channel, value in enumerate(values):
                buffer[channel] = value

    def forward(self, frames: Frames, tokens: Int[Tensor, "B V"] | None = None) -> Float[Tensor, "B M D"]:
        """Embeddings of `tokens` (None: all) of a clip, uint8 or float in [0, 1]."""
        cubes = gather_cubes(frames, self.config.grid, tokens).flatten(2)
        weight, bias = self._raw_weights(white=255 if cubes.dtype == torch.uint8 else 1)
        return F.linear(cubes.to(product_dtype(weight)), weight.flatten(1), bias)

    def _raw_weights(self, white: int) -> tuple[Float[Tensor, "D C t p q"], Float[Tensor, "D"]]:
        """Weights for pixels as they come, 0 to `white`: (x / white - mean) / std is folded into them.

        No pass over the pixels is spent on it, and whole numbers up to 255 are exact in bf16, where
        normalised ones are not.
        """
        scaled = self.proj.weight / self.std
        assert self.proj.bias is not None
        return scaled / white, self.proj.bias - (scaled * self.mean).sum((1, 2, 3, 4))
