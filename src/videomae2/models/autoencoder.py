"""The masked autoencoder: an encoder that sees some tokens, and a decoder that predicts some others."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videomae2.cubes import Frames
from videomae2.models.decoder import Decoder
from videomae2.models.encoder import Encoder
from videomae2.records import TokenSplit


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
