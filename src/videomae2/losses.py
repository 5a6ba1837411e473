"""Losses, as scalars in float32 whatever the precision of the network."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def masked_mse(prediction: Float[Tensor, "B S P"], target: Float[Tensor, "B S P"]) -> Float[Tensor, ""]:
    """Mean squared error over a cube's P values, then over the scored tokens of the batch (released engine).

    The paper's Eq. 2 divides by every token that the decoder mask keeps, scored or not: its loss is this one
    times 704 / 784 at 16 x 224 x 224.
    """
    difference = prediction.float() - target.float()
    # Against zero, so that only the difference is saved for backward, instead of prediction and target.
    return F.mse_loss(difference, difference.new_zeros(()).expand_as(difference))


def soft_cross_entropy(logits: Float[Tensor, "B K"], target: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Mean cross-entropy against a distribution over classes, as mixup and label smoothing make them."""
    # Written out: F.cross_entropy with soft targets adds in another order. Its gradients are bit-equal, but
    # the loss differs in the last digits (2e-7), and recorded runs are compared bit for bit.
    return -(target.float() * logits.float().log_softmax(-1)).sum(-1).mean()
