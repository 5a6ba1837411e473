"""A classifier's network without its head: what the hub's `OpenGVLab/VideoMAEv2-*` publish for features."""

from jaxtyping import Float
from torch import Tensor, nn

from videomae2.architecture import encoder_config
from videomae2.cubes import Frames
from videomae2.models.build import build_encoder, materialize
from videomae2.models.encoder import Encoder
from videomae2.models.layers import LayerNorm
from videomae2.settings import ModelSettings
from videomae2.weights import Checkpoint


class PooledEncoder(nn.Module):
    """An encoder without its final norm, then mean pooling and `fc_norm`, named as released.

    Its output is what the head of the same classifier would read (the hub's `forward_features`).
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.fc_norm = LayerNorm(encoder.config.width)

    def forward(self, frames: Frames) -> Float[Tensor, "B D"]:
        """One vector a clip, uint8 or float in [0, 1]."""
        pooled: Tensor = self.fc_norm(self.encoder(frames).mean(1))
        return pooled

    def features(self, frames: Frames) -> Float[Tensor, "B D"]:
        """As `forward`, by the name that classifiers have for it."""
        pooled: Tensor = self(frames)
        return pooled


def headless_network(settings: ModelSettings, checkpoint: Checkpoint) -> nn.Module:
    """The network that weights without a head or decoder fill, to the last tensor.

    fc_norm alone means that a classifier's trunk was published: dropping it would change every feature.
    """
    if "fc_norm.weight" not in checkpoint.state:
        return build_encoder(settings, final_norm="encoder.norm.weight" in checkpoint.state)
    return materialize(
        PooledEncoder(Encoder(encoder_config(settings), final_norm=False)), "finetune", None, "cpu"
    )
