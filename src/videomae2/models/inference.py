"""A network that will not be trained any further."""

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def for_inference(model: M, precision: str) -> M:
    """The network itself, for forwards in `precision`; for "bf16" its linear layers keep their weights in
    bf16.

    bf16 autocast otherwise makes such copies of all weights at every forward, a tenth of the time of one clip
    on a CPU. What the network computes under autocast does not change by a bit; without autocast it no longer
    runs, and it cannot be trained.
    """
    model.eval()
    if precision == "bf16":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
    return model
