"""The masked autoencoder: an encoder that sees some tokens, and a decoder that predicts some others.

The decoder is a narrow transformer that predicts the pixels of hidden cubes, used in pre-training only.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videomae2.architecture import DecoderConfig
from videomae2.cubes import Frames
from videomae2.geometry import TokenGrid
from videomae2.models.encoder import Encoder
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


class Autoencoder(nn.Module):
    """Encoder, projection without bias, shared mask token and decoder, named as in released checkpoints.

    `decoder_fp32` runs everything behind the encoder in full precision, also under bf16 autocast (paper,
    appendix).
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, decoder_fp32: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder_to_decoder = nn.Linear(encoder.config.width, decoder.config.width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.config.width))
        self.decoder = decoder
        self.decoder_fp32 = decoder_fp32

    def forward(self, frames: Frames, split: TokenSplit, only_scored: bool = True) -> Float[Tensor, "B M P"]:
        """Predict the cubes [B, S, P] of the scored tokens (`split.targets`), or [B, R, P] of all decoded."""
        encoded = self.encoder(frames, split.visible)
        if not self.decoder_fp32:
            return self._decode(encoded, split, only_scored)
        with torch.autocast(encoded.device.type, enabled=False):
            return self._decode(encoded.float(), split, only_scored)

    def _decode(
        self, encoded: Float[Tensor, "B V D"], split: TokenSplit, only_scored: bool
    ) -> Float[Tensor, "B M P"]:
        predicted: Tensor = self.decoder(
            self.encoder_to_decoder(encoded), self.mask_token, split, only_scored
        )
        return predicted
