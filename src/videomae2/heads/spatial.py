"""Spatial action detection: what each actor does, from features of the whole clip pooled inside its box.

The head of V1's detector (its AVA code): normalised tokens, their mean over time, RoIAlign, the maximum over
its cells, one linear layer; scores are sigmoids, since an actor stands and talks at once. Cutting persons
out and classifying the cut gives wrong actions: what a person does is seen in what is around it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from videomae2.architecture import encoder_config
from videomae2.cubes import Frames
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.models.build import materialize
from videomae2.models.encoder import Encoder
from videomae2.models.layers import LayerNorm
from videomae2.settings import ModelSettings, SpatialHead
from videomae2.weights import Checkpoint


def roi_align(
    maps: Float[Tensor, "B D H W"],
    boxes: Float[Tensor, "A 4"],
    clip: Int[Tensor, "A"],
    scale: float,
    *,
    size: int = 7,
    samples: int = 0,
) -> Float[Tensor, "A D size size"]:
    """Features inside each box on a size x size raster (RoIAlign, Mask R-CNN; half-pixel aligned).

    `boxes` are (x0, y0, x1, y1) in pixels, `scale` cells of the map a pixel (1 / patch), `clip` the map of
    each box. A cell of the raster is the mean of samples x samples bilinear samples; 0 takes about one a cell
    of the map (adaptive). Samples more than one cell outside the map are 0. A box of no area gives the
    features at its place.
    """
    # Bilinear sampling on a raster that is parallel to the axes is two small matmuls, one an axis. That has a
    # deterministic backward pass on a GPU, where grid_sample's adds in any order: a run resumes bit for bit.
    with torch.autocast(maps.device.type, enabled=False):
        values = maps.to(torch.promote_types(maps.dtype, torch.float32))
        corners = boxes.to(values.dtype) * scale - 0.5  # the centre of cell i lies at i
        down = _axis_weights(corners[:, 1], corners[:, 3], values.shape[2], size, samples)
        across = _axis_weights(corners[:, 0], corners[:, 2], values.shape[3], size, samples)
        pooled: Tensor = down[:, None] @ values[clip] @ across[:, None].mT
        return pooled


def _axis_weights(
    start: Float[Tensor, "A"], end: Float[Tensor, "A"], cells: int, size: int, samples: int
) -> Float[Tensor, "A size cells"]:
    """How much of each cell of the map goes into each cell of the raster, along one axis."""
    step = (end - start) / size
    count = torch.full_like(step, samples) if samples else step.detach().ceil().clamp(min=1)
    # The one number that is read from the device: how many samples the largest box has.
    most = samples or int(count.amax()) if len(count) else 1
    number = torch.arange(most, device=step.device, dtype=step.dtype)
    within = (number + 0.5) / count[:, None]
    cell = torch.arange(size, device=step.device, dtype=step.dtype)
    places = start[:, None, None] + (cell[None, :, None] + within[:, None]) * step[:, None, None]
    counts = (places >= -1) & (places <= cells) & (number < count[:, None])[:, None]
    # Linear interpolation is a hat around each sample; up to a cell outside the edge's value holds.
    centres = torch.arange(cells, device=step.device, dtype=step.dtype)
    hats = (1 - (places.clamp(0, cells - 1)[..., None] - centres).abs()).clamp(min=0)
    return (hats * counts[..., None]).sum(2) / count[:, None, None]


class SpatialDetector(nn.Module):
    """An encoder without final norm, `token_norm`, pooling over time, RoIAlign, `head` over K actions.

    `pooling` is mean, or attentive: a softmax over time of a learned score of each token, which starts as the
    mean. With `context` the head also sees the mean of the whole clip. UserError for fewer than one class.
    """

    def __init__(self, encoder: Encoder, num_classes: int, head: SpatialHead, dropout: float = 0.0) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(f"expected at least 1 action, got {num_classes}; give annotations with actions")
        width = encoder.config.width
        self.encoder = encoder
        self.num_classes = num_classes
        self.roi_size = head.roi_size
        self.token_norm = LayerNorm(width)
        self.time_score = nn.Linear(width, 1, bias=False) if head.pooling == "attentive" else None
        self.context = head.context
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * (1 + head.context), num_classes)

    def forward(
        self, frames: Frames, boxes: Float[Tensor, "A 4"], clip: Int[Tensor, "A"]
    ) -> Float[Tensor, "A K"]:
        """Logits of each box: frames [B, T, C, H, W] of any size, boxes in their pixels, the clip of each."""
        maps = self.feature_maps(frames)
        features = self.actor_features(maps, boxes, clip)
        logits: Tensor = self.head(self.dropout(features))
        return logits

    def feature_maps(self, frames: Frames) -> Float[Tensor, "B D h w"]:
        """Normalised features of each place, pooled over time. Frames are continued to whole patches."""
        grid = self.grid_of(frames.shape[-2], frames.shape[-1])
        tokens = self.token_norm(self.encoder(_continued(frames, grid), grid=grid))
        by_time = tokens.unflatten(1, grid.shape)
        if self.time_score is None:
            mean: Tensor = by_time.mean(1).permute(0, 3, 1, 2)
            return mean
        shares = self.time_score(by_time).float().softmax(1).to(by_time.dtype)
        weighed: Tensor = (by_time * shares).sum(1).permute(0, 3, 1, 2)
        return weighed

    def actor_features(
        self, maps: Float[Tensor, "B D h w"], boxes: Float[Tensor, "A 4"], clip: Int[Tensor, "A"]
    ) -> Float[Tensor, "A W"]:
        """What the head reads of each box: the maximum over its raster; with context the clip's mean, too."""
        scale = 1 / self.encoder.config.grid.patch
        pooled = roi_align(maps, boxes, clip, scale, size=self.roi_size).flatten(2).amax(2)
        if self.context:
            pooled = torch.cat([pooled, maps.to(pooled.dtype).mean((2, 3))[clip]], 1)
        return pooled

    def grid_of(self, height: int, width: int) -> TokenGrid:
        """The grid of frames of this size, whole patches; the network's own where it is that."""
        own = self.encoder.config.grid
        whole = (-(-side // own.patch) * own.patch for side in (height, width))
        return replace(own, **dict(zip(("height", "width"), whole, strict=True)))


def _continued(frames: Frames, grid: TokenGrid) -> Shaped[Tensor, "B T C h w"]:
    """Frames with their last row and column repeated up to the grid's size: black would look like an edge."""
    height, width = frames.shape[-2:]
    if (height, width) == (grid.height, grid.width):
        return frames
    rows, columns = (
        torch.arange(whole, device=frames.device).clamp(max=side - 1)
        for whole, side in ((grid.height, height), (grid.width, width))
    )
    return frames.index_select(-2, rows).index_select(-1, columns)


def build_detector(
    settings: ModelSettings,
    num_classes: int,
    head: SpatialHead | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> SpatialDetector:
    """A detector with initial weights drawn from `generator`; those of its head are scaled down."""
    head = head or SpatialHead()
    with torch.device("meta"):
        encoder = Encoder(encoder_config(settings), final_norm=False)
        model = SpatialDetector(encoder, num_classes, head, settings.head_dropout)
    model = materialize(model, "finetune", generator, device)
    with torch.no_grad():
        model.head.weight.mul_(head.init_scale)
        if model.time_score is not None:
            model.time_score.weight.zero_()
    return model


def detector_of(settings: ModelSettings, checkpoint: Checkpoint) -> SpatialDetector:
    """The network that a checkpoint of kind detector fills."""
    kept: Mapping[str, Any] = checkpoint.metadata.get("head", {})
    known = {name: kept[name] for name in ("roi_size", "pooling", "context") if name in kept}
    return build_detector(settings, checkpoint.num_classes or 0, SpatialHead(**known))


# ---- losses over boxes


def action_loss(
    logits: Float[Tensor, "A K"],
    hot: Float[Tensor, "A K"],
    clips: int,
    *,
    focus: float = 0.0,
    weights: Float[Tensor, "K"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of each action: the mean over actions, summed over boxes, a share of each clip.

    Released, where it is multiplied by the number of boxes, so that a crowd weighs more than one actor.
    `focus` is the focal loss's exponent (0: none), `weights` one weight a class. No box: 0, with gradients.
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), hot.float(), weight=weights, reduction="none")
    if focus:
        right = torch.where(hot > 0.5, logits.float(), -logits.float()).sigmoid()
        each = each * (1 - right) ** focus
    return each.mean(1).sum() / max(1, clips)


def class_weights(counts: Int[Tensor, "K"], beta: float = 0.999) -> Float[Tensor, "K"]:
    """Weights by the effective number of examples (Cui et al., 2019), 1 in the mean."""
    effective = 1 - beta ** counts.clamp(min=1).double()
    weights = (1 - beta) / effective
    return (weights / weights.mean()).float()
