"""Boxes in a plane: overlap, suppression of doubles, growth. All are (x0, y0, x1, y1), in any one unit."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from videomae2.errors import UserError

Boxes2D = Float[Tensor, "A 4"]


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Area of each box; 0 where it ends before it starts."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def pair_iou(left: Float[Tensor, "*n 4"], right: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Intersection over union of each box with its partner; 0 where both have no area. Shapes broadcast."""
    low, high = torch.maximum(left[..., :2], right[..., :2]), torch.minimum(left[..., 2:], right[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = area(left) + area(right) - shared
    # Two boxes of no area share nothing; 0 / 0 would make a NaN that passes no comparison.
    return torch.where(union > 0, shared / union, torch.zeros_like(union))


def iou(left: Float[Tensor, "A 4"], right: Float[Tensor, "M 4"]) -> Float[Tensor, "A M"]:
    """Intersection over union of every box with every other."""
    pairs = torch.broadcast_tensors(left[:, None], right[None])
    return pair_iou(*pairs)


def nms(
    boxes: Float[Tensor, "A 4"],
    scores: Float[Tensor, "A"],
    threshold: int | float,
    groups: Int[Tensor, "A"] | None = None,
) -> Int[Tensor, "n"]:
    """Which boxes stay, best first: each removes those after it that overlap it by more than `threshold`.

    Boxes of different `groups` (frames, or classes) never remove each other. Equal scores keep their order.
    UserError for a threshold outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"expected an overlap from 0 to 1 to suppress boxes by, got {threshold}; try 0.5")
    order = scores.argsort(descending=True, stable=True)
    overlap = iou(boxes[order], boxes[order]) > threshold
    if groups is not None:
        overlap &= groups[order][:, None] == groups[order][None]
    # The rule is sequential, for a removed box removes nothing; the loop is over rows that are there already.
    gone = torch.zeros(len(order), dtype=torch.bool, device=boxes.device)
    for place in range(len(order)):
        if not gone[place]:
            gone[place + 1 :] |= overlap[place, place + 1 :]
    return order[~gone]


def grown(boxes: Boxes2D, across: float, down: float, within: tuple[int | float, int | float]) -> Boxes2D:
    """Boxes with these shares of their own width and height added on each side.

    They are cut at the edges of a picture (height, width).
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    margin = sides * sides.new_tensor([across, down])
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    most = boxes.new_tensor([within[1], within[0]])
    return torch.cat([low.clamp(min=0), torch.minimum(high, most)], 1)
