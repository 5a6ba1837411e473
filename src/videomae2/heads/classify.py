"""Action classification: the released fine-tuning model, the same without its head, and scores of all views.

Without a head it is what the hub's `OpenGVLab/VideoMAEv2-*` publish for features.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videomae2.architecture import encoder_config
from videomae2.cubes import Frames
from videomae2.engine import parallel
from videomae2.errors import UserError
from videomae2.metrics.accuracy import ViewScores
from videomae2.models.build import build_encoder, materialize
from videomae2.models.encoder import Encoder
from videomae2.models.layers import LayerNorm
from videomae2.records import Batch
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


Views = tuple[Tensor, Tensor, Tensor]
"""Frames [n, T, C, H, W], row int64 [n] and view int64 [n] of n views."""


@runtime_checkable
class Feed(Protocol):
    """What `score_views` reads: batches of views, and a blank clip for a rank that has no batch left."""

    @property
    def blank(self) -> Tensor:
        """One clip [1, T, C, H, W] of the network's input shape, whose scores are dropped."""
        ...

    def __iter__(self) -> Iterator[Batch[Any]]: ...


class Classifier(nn.Module):
    """An encoder without final norm, mean pooling over tokens, `fc_norm`, dropout and `head`, as released.

    The names are the released ones too. UserError for fewer than one class.
    """

    def __init__(self, encoder: Encoder, num_classes: int, head_dropout: float = 0.0) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(
                f"expected num_classes of at least 1, got {num_classes}; give it, or a manifest with labels"
            )
        self.encoder = encoder
        self.num_classes = num_classes
        self.fc_norm = LayerNorm(encoder.config.width)
        self.dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(encoder.config.width, num_classes)

    def forward(self, frames: Frames) -> Float[Tensor, "B K"]:
        """Logits of clips [B, T, C, H, W], uint8 or float in [0, 1]."""
        logits: Tensor = self.head(self.dropout(self.features(frames)))
        return logits

    def features(self, frames: Frames) -> Float[Tensor, "B D"]:
        """The embedding of each clip: the mean over its tokens, normalised."""
        pooled: Tensor = self.fc_norm(self.encoder(frames).mean(1))
        return pooled


def build_classifier(
    settings: ModelSettings,
    num_classes: int,
    head_init_scale: float = 0.001,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Classifier:
    """A classifier with initial weights drawn from `generator`; those of its head are scaled down.

    `head_init_scale` is the factor (released: 0.001).
    """
    # On the meta device first: `materialize` allocates and draws every parameter once, where the constructors
    # would draw values that are thrown away.
    with torch.device("meta"):
        encoder = Encoder(encoder_config(settings), final_norm=False)
        model = Classifier(encoder, num_classes, settings.head_dropout)
    model = materialize(model, "finetune", generator, device)
    # A small head gives nearly equal logits, and small first gradients into a pre-trained encoder.
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
) -> ViewScores:
    """Add the softmax of every view to `scores`; unreadable rows are recorded as failed, never replaced.

    `network` is a classifier, wrapped or not; its mode (train or eval) is restored afterwards. A forward has
    at most `views_per_forward` clips (0: a whole batch).
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()

    def views() -> Iterator[Views]:
        for batch in feed:
            # A video that could not be read is still in the denominator. To replace it, as in training, would
            # score a network on other videos than the manifest lists.
            scores.fail(batch.failures)
            # A batch whose rows all failed has no clips; `range` needs a step of at least 1.
            size = views_per_forward or max(1, len(batch))
            for start in range(0, len(batch), size):
                part = slice(start, start + size)
                yield batch.frames[part], batch.row[part], batch.view[part]

    none = torch.zeros(0, dtype=torch.int64)
    try:
        for (frames, row, view), counts in parallel.in_step(views(), network, (feed.blank, none, none)):
            # fp32, since the softmax is averaged over views: bf16 has three decimal digits.
            logits = network(frames.to(device, non_blocking=True)).float()
            if counts:  # not the blank clips of a rank that has no batch left
                scores.update(logits, row, view)
    finally:
        network.train(was_training)
    return scores


def gather_scores(scores: ViewScores) -> ViewScores:
    """Merge the scores of all ranks, in place; without a group nothing changes. Collective."""
    if not parallel.in_group():
        return scores
    # Sums over views are merged, not accuracies: the views of one row may have been scored on several ranks,
    # and their mean softmax must come before the decision. They are added as dense tensors: of every row,
    # one rank has something and the others zeros.
    scores.widen(parallel.greatest([scores.seen.shape[1]])[0])
    # A view that a padding sampler gave to several ranks is that of the first of them.
    last = parallel.world_size()
    mine = torch.where(scores.seen, last - parallel.rank(), 0)
    owner = last - parallel.add_up(mine, greatest=True)
    parallel.together(lambda: scores.drop(owner < parallel.rank()))
    parallel.add_up(scores.sums)
    scores.seen = owner < last
    for failures in parallel.all_objects(list(scores.failures.values())):
        scores.fail(failures)
    return scores
