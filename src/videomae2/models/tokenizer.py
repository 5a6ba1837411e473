"""From a clip to tokens: normalise and embed cubes of pixels, and only those the encoder is to see."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from videomae2.architecture import EncoderConfig
from videomae2.cubes import Frames, gather_cubes, unit_range


class CubeEmbedding(nn.Conv3d):
    """The 3-D convolution of released checkpoints: weight [D, C, t, p, p], stride as large as its kernel.

    Over inputs of one kernel's size it is a single matmul, where torch's convolution, on CPUs and GPUs alike,
    takes several times as long.
    """

    def forward(self, input: Float[Tensor, "*M C T H W"]) -> Float[Tensor, "*M D t h w"]:
        """As nn.Conv3d; inputs of one kernel's size give [M, D, 1, 1, 1]."""
        if input.shape[1:] != self.weight.shape[1:]:
            return super().forward(input)
        return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


class Tokenizer(nn.Module):
    """The cube embedding of normalised pixels.

    It owns mean and standard deviation, so that no user of the network can forget or confuse them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        cube = (config.grid.tubelet, config.grid.patch, config.grid.patch)
        self.proj = CubeEmbedding(config.grid.channels, config.width, cube, cube)
        self.register_buffer("mean", torch.empty(config.grid.channels, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(config.grid.channels, 1, 1, 1), persistent=False)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Fill the buffers; they are in no checkpoint."""
        for buffer, values in ((self.mean, self.config.mean), (self.std, self.config.std)):
            for channel, value in enumerate(values):
                buffer[channel] = value

    def forward(self, frames: Frames, tokens: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "B M D"]:
        """Embeddings of `tokens` (None: all) of a clip, uint8 or float in [0, 1]."""
        cubes = gather_cubes(frames, self.config.grid, tokens)
        pixels = (unit_range(cubes) - self.mean) / self.std
        embedded: Tensor = self.proj(pixels.flatten(0, 1)).view(*cubes.shape[:2], -1)
        return embedded
