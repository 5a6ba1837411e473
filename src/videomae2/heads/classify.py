"""Action classification (released fine-tuning model): the head, and its scores over the views of many
videos.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videomae2.architecture import encoder_config
from videomae2.cubes import Frames
from videomae2.engine import parallel
from videomae2.errors import UserError
from videomae2.metrics.accuracy import ViewScores
from videomae2.models.build import materialize
from videomae2.models.encoder import Encoder
from videomae2.models.layers import LayerNorm
from videomae2.records import Batch
from videomae2.settings import ModelSettings

Views = tuple[Tensor, Tensor, Tensor]
"""Frames [n, T, C, H, W], row [n] and view [n] of some views."""


@runtime_checkable
class Feed(Protocol):
    """What is scored: batches of views, and a clip of the network's shape that stands in for none."""

    @property
    def blank(self) -> Tensor: ...

    def __iter__(self) -> Iterator[Batch[Any]]: ...


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


@torch.no_grad()
def score_views(
    network: nn.Module,
    feed: "Feed",
    scores: ViewScores,
    *,
    views_per_forward: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> ViewScores:
    """Add every view's softmax to `scores`; rows that could not be read are failed, never replaced.

    `network` is a classifier, under whatever the engine wrapped it in. At most `views_per_forward` clips go
    through it at once (0: a whole batch). `progress` is told how many rows each batch brought. The network is
    put back in the mode it came in.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()

    def views() -> Iterator[Views]:
        for batch in feed:
            scores.fail(batch.failures)
            size = views_per_forward or max(1, len(batch))
            for start in range(0, len(batch), size):
                part = slice(start, start + size)
                yield batch.frames[part], batch.row[part], batch.view[part]
            progress(len(batch.row.unique()) + len(batch.failures))

    none = torch.zeros(0, dtype=torch.int64)
    try:
        for (frames, row, view), counts in parallel.in_step(views(), network, (feed.blank, none, none)):
            logits = network(frames.to(device, non_blocking=True)).float()
            if counts:
                scores.update(logits, row, view)
    finally:
        network.train(was_training)
    return scores


def gather_scores(scores: ViewScores) -> ViewScores:
    """The scores of all processes merged, on every process; the scores themselves when there is one."""
    if not parallel.in_group():
        return scores
    merged, *others = (ViewScores.from_state_dict(each) for each in parallel.all_objects(scores.state_dict()))
    for other in others:
        merged.merge(other)
    return merged
