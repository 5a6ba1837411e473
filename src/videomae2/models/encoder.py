"""The encoder: a plain vision transformer over the tokens it is given to see."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from videomae2.architecture import EncoderConfig
from videomae2.cubes import Frames
from videomae2.models.layers import Block, LayerNorm, run_blocks
from videomae2.models.tokenizer import Tokenizer
from videomae2.positions import position_table


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

    def forward(self, frames: Frames, visible: Int[Tensor, "B V"] | None = None) -> Float[Tensor, "B M D"]:
        """Features [B, V, D] of the visible tokens, in their order; of all N tokens where none are named."""
        x: Tensor = self.patch_embed(frames, visible)
        x = x + (self.pos_embed if visible is None else self.pos_embed[0][visible])
        x = run_blocks(self.blocks, x, self.config.activation_checkpointing and self.training)
        x = self.norm(x)
        return x
