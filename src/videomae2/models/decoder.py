"""The decoder: a narrow transformer that predicts the pixels of hidden cubes, used in pre-training only."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videomae2.architecture import DecoderConfig
from videomae2.geometry import TokenGrid
from videomae2.models.layers import Block, LayerNorm, run_blocks
from videomae2.positions import position_table
from videomae2.records import TokenSplit


class Decoder(nn.Module):
    """Visible tokens first, then a mask token at every decoded position (released order).

    Positions are never learned here.
    """

    pos_embed: Tensor

    def __init__(self, config: DecoderConfig, grid: TokenGrid, native: TokenGrid) -> None:
        super().__init__()
        self.config, self.grid, self.native = config, grid, native
        self.register_buffer("pos_embed", torch.empty(1, grid.num_tokens, config.width), persistent=False)
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                config.num_heads,
                config.mlp_width,
                cosine_attention=config.cosine_attention,
                layer_scale=config.layer_scale,
                mlp_checkpointing=config.mlp_checkpointing,
            )
            for _ in range(config.depth)
        )
        self.norm = LayerNorm(config.width)
        self.head = nn.Linear(config.width, grid.cube_values)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Fill the position table; it is in no checkpoint."""
        if not self.pos_embed.is_meta:
            self.pos_embed.copy_(
                position_table(self.grid, self.native, self.config.width, self.config.positions)
            )

    def forward(
        self,
        encoded: Float[Tensor, "B V W"],
        mask_token: Float[Tensor, "1 1 W"],
        split: TokenSplit,
        only_scored: bool = True,
    ) -> Float[Tensor, "B M P"]:
        """Predictions [B, S, P] of the scored tokens, or [B, R, P] of all decoded ones.

        The last block attends to every token, but only those returned attend and are predicted.
        """
        positions = self.pos_embed[0]
        masked = mask_token + positions[split.decoded]
        x = torch.cat((encoded + positions[split.visible], masked), dim=1)
        num_visible = split.visible.shape[1]
        if only_scored:
            chosen = split.scored + num_visible
        else:
            chosen = torch.arange(num_visible, x.shape[1], device=x.device).expand(x.shape[0], -1)
        x = run_blocks(self.blocks, x, self.config.activation_checkpointing and self.training, chosen)
        predicted: Tensor = self.head(self.norm(x))
        return predicted
