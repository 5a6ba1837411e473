"""Action classification: the mean of all tokens, normalised, and one linear layer (released fine-tuning
model).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videomae2.architecture import encoder_config
from videomae2.cubes import Frames
from videomae2.errors import UserError
from videomae2.models.build import materialize
from videomae2.models.encoder import Encoder
from videomae2.models.layers import LayerNorm
from videomae2.settings import ModelSettings


class Classifier(nn.Module):
    """An encoder without its final norm, then mean pooling, `fc_norm`, dropout and `head`, named as
    released.
    """

    def __init__(self, encoder: Encoder, num_classes: int, head_dropout: float = 0.0) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(
                f"num_classes is {num_classes}, but at least 1 was expected; give it, or a manifest with "
                "labels"
            )
        self.encoder = encoder
        self.num_classes = num_classes
        self.fc_norm = LayerNorm(encoder.config.width)
        self.dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(encoder.config.width, num_classes)

    def forward(self, frames: Frames) -> Float[Tensor, "B K"]:
        """Logits of a clip, uint8 or float in [0, 1]."""
        return self.head(self.dropout(self.features(frames)))

    def features(self, frames: Frames) -> Float[Tensor, "B D"]:
        """One vector a clip: what the head reads."""
        return self.fc_norm(self.encoder(frames).mean(1))


def build_classifier(
    settings: ModelSettings,
    num_classes: int,
    head_init_scale: float = 0.001,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Classifier:
    """A fresh classifier; its head starts `head_init_scale` times as large as the other layers (released:
    0.001).
    """
    with torch.device("meta"):
        encoder = Encoder(encoder_config(settings), final_norm=False)
        model = Classifier(encoder, num_classes, settings.head_dropout)
    model = materialize(model, "finetune", generator, device)
    with torch.no_grad():
        model.head.weight.mul_(head_init_scale)
        model.head.bias.mul_(head_init_scale)
    return model
