"""The encoder: a plain vision transformer over the tokens it is given to see, and the tokenizer before it.

The tokenizer normalises and embeds cubes of pixels, and only those that the encoder is to see.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from videomae2.architecture import EncoderConfig
from videomae2.cubes import Frames, gather_cubes, unit_range
from videomae2.geometry import TokenGrid
from videomae2.models.layers import Block, LayerNorm, run_blocks
from videomae2.positions import interpolate, position_table

TABLES_KEPT = 16
"""Position tables of other grids that are kept: as many shapes as the videos of a data set usually have."""


@lru_cache(maxsize=TABLES_KEPT)
def _table(grid: TokenGrid, native: TokenGrid, width: int, kind: str) -> Tensor:
    return position_table(grid, native, width, kind)


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

    def forward(
        self, frames: Frames, tokens: Int[Tensor, "B M"] | None = None, grid: TokenGrid | None = None
    ) -> Float[Tensor, "B M D"]:
        """Embeddings of `tokens` (None: all) of a clip, uint8 or float in [0, 1]; `grid` None is the own."""
        cubes = gather_cubes(frames, grid or self.config.grid, tokens)
        pixels = (unit_range(cubes) - self.mean) / self.std
        embedded: Tensor = self.proj(pixels.flatten(0, 1)).view(*cubes.shape[:2], -1)
        return embedded


class Encoder(nn.Module):
    """Joint space-time attention over visible tokens (paper 3.1).

    `final_norm=False` leaves the last LayerNorm out, as the released classifiers do: they normalise after
    pooling.
    """

    pos_embed: Tensor

    def __init__(self, config: EncoderConfig, final_norm: bool = True) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = Tokenizer(config)
        positions = torch.empty(1, config.grid.num_tokens, config.width)
        if config.positions == "learned":
            self.pos_embed = nn.Parameter(positions)
        else:
            self.register_buffer("pos_embed", positions, persistent=False)
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                config.num_heads,
                config.mlp_width,
                drop_path=config.drop_path * index / max(config.depth - 1, 1),
                cosine_attention=config.cosine_attention,
                layer_scale=config.layer_scale,
                mlp_checkpointing=config.mlp_checkpointing,
            )
            for index in range(config.depth)
        )
        self.norm = LayerNorm(config.width) if final_norm else nn.Identity()
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Fill the position table; a fixed one is in no checkpoint, a learned one starts as the sinusoid."""
        if self.pos_embed.is_meta:
            return
        with torch.no_grad():
            config = self.config
            self.pos_embed.copy_(position_table(config.grid, config.native, config.width, config.positions))

    def positions(self, grid: TokenGrid | None = None) -> Float[Tensor, "1 N D"]:
        """The position table of a grid of the same cubes (None: the network's own), interpolated in 3-D."""
        config = self.config
        if grid is None or grid == config.grid:
            return self.pos_embed
        if config.positions == "learned":
            return interpolate(self.pos_embed[0], config.grid.shape, grid.shape)[None]
        table = _table(grid, config.native, config.width, config.positions)
        return table[None].to(self.pos_embed)

    def forward(
        self, frames: Frames, visible: Int[Tensor, "B V"] | None = None, grid: TokenGrid | None = None
    ) -> Float[Tensor, "B M D"]:
        """Features [B, V, D] of the visible tokens, in their order; of all N tokens where none are named.

        `grid` says how clips of another size than the network's are cut; its cubes must be the network's.
        """
        x: Tensor = self.patch_embed(frames, visible, grid)
        positions = self.positions(grid)
        x = x + (positions if visible is None else positions[0][visible])
        x = run_blocks(self.blocks, x, self.config.activation_checkpointing and self.training)
        x = self.norm(x)
        return x
