"""The masked autoencoder: an encoder that sees some tokens, and a decoder that predicts some others."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videomae2.cubes import Frames
from videomae2.models.decoder import Decoder
from videomae2.models.encoder import Encoder
from videomae2.records import TokenSplit


class Autoencoder(nn.Module):
    """Encoder, projection without bias, shared mask token and decoder, named as in released checkpoints."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder_to_decoder = nn.Linear(encoder.config.width, decoder.config.width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.config.width))
        self.decoder = decoder

    def forward(self, frames: Frames, split: TokenSplit, only_scored: bool = True) -> Float[Tensor, "B M P"]:
        """Predicted cubes [B, S, P] of the scored tokens (`split.targets`), or [B, R, P] of
        `split.decoded`.
        """
        return self.decode(self.encoder(frames, split.visible), split, only_scored)

    def decode(
        self, encoded: Float[Tensor, "B V D"], split: TokenSplit, only_scored: bool = True
    ) -> Float[Tensor, "B M P"]:
        """The second half of `forward`, apart, for those who run it in another precision than the encoder."""
        return self.decoder(self.encoder_to_decoder(encoded), self.mask_token, split, only_scored)
