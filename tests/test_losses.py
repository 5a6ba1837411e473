"""Losses against their definitions, in any precision."""

import torch
from torch.nn import functional as F

from videomae2.losses import masked_mse, soft_cross_entropy


def test_masked_mse_is_the_mean_over_scored_tokens() -> None:
    prediction, target = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    per_token = ((prediction - target) ** 2).mean(-1)
    torch.testing.assert_close(masked_mse(prediction, target), per_token.sum() / 10)


def test_soft_cross_entropy_of_one_hot_targets_is_cross_entropy() -> None:
    logits, labels = torch.randn(4, 6), torch.tensor([0, 5, 2, 2])
    torch.testing.assert_close(
        soft_cross_entropy(logits, F.one_hot(labels, 6).float()), F.cross_entropy(logits, labels)
    )
    smooth = F.one_hot(labels, 6) * 0.9 + 0.1 / 6
    torch.testing.assert_close(
        soft_cross_entropy(logits, smooth), F.cross_entropy(logits, labels, label_smoothing=0.1)
    )


def test_losses_are_float32_for_half_precision_networks() -> None:
    x, target = torch.randn(2, 3, 4, dtype=torch.bfloat16), torch.randn(2, 3, 4)
    assert masked_mse(x, target).dtype == torch.float32
    assert soft_cross_entropy(x[0], target[0].softmax(-1)).dtype == torch.float32
