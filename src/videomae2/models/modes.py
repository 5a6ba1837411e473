"""How torch runs what is called now."""

import torch
from torch import Tensor


def trains_eagerly() -> bool:
    """Whether autograd keeps what is computed now; under torch.compile its own partitioner decides what is
    kept.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def only_infers() -> bool:
    """Whether nobody will ask for gradients, and torch.compile does not rewrite what is computed."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def product_dtype(weight: Tensor) -> torch.dtype:
    """What a linear layer of this weight computes in: autocast's type inside autocast, else its own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
