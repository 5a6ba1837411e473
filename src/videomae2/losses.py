"""Losses, as scalars in float32 whatever the precision of the network."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def masked_mse(prediction: Float[Tensor, "B S P"], target: Float[Tensor, "B S P"]) -> Float[Tensor, ""]:
    """Squared error, averaged over a cube's values, then over the scored tokens of the batch (released
    engine).

    The paper divides by every kept token instead, scored or not: its loss is this one times 704/784 at 16 x
    224 x 224.
    """
    difference = prediction.float() - target.float()
    # Against a zero, so that only the difference is kept for the backward pass, which then is one product.
    return F.mse_loss(difference, difference.new_zeros(()).expand_as(difference))


def soft_cross_entropy(logits: Float[Tensor, "B K"], target: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Cross-entropy against a distribution for each clip, such as mixup and label smoothing make."""
    return -(target.float() * logits.float().log_softmax(-1)).sum(-1).mean()
