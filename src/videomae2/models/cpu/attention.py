"""Attention in training with bf16 on a CPU, where torch's fused kernel is fast forward but not backward.

The backward pass here recomputes the attention weights, for a few heads at a time, so that they stay in the
cache and no [M, N] matrix is saved. On two cores with bf16 arithmetic it takes two thirds of the fused one's
time at 864 and 1,568 tokens.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from videomae2.cost.activations import EXPLICIT_UP_TO

_CACHE = 2 << 20
"""Bytes of attention weights that are worked on at once: they and their operands fit second-level caches."""


def attend(
    query: Float[Tensor, "B heads M d"],
    key: Float[Tensor, "B heads N d"],
    value: Float[Tensor, "B heads N d"],
    scale: float | None = None,
) -> Float[Tensor, "B heads M d"]:
    """softmax(query key^T * scale) value; scale is d ** -0.5 unless given."""
    if query.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if key.shape[2] <= EXPLICIT_UP_TO:
        # So few that recomputing the weights would cost more than saving them.
        weights = (query * scale @ key.transpose(-2, -1)).softmax(-1).to(value.dtype)
        return weights @ value
    attended: Tensor = _Attention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        return F.scaled_dot_product_attention(query, key, value, scale=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        heads = query.shape[:2]
        # Scaled queries give scaled scores, and the gradient of the keys as well.
        query, key, value, grad = (x.flatten(0, 1) for x in (query * ctx.scale, key, value, grad))
        query_grad, key_grad, value_grad = (x.new_empty(x.shape) for x in (query, key, value))
        at_once = max(2, _CACHE // (query.shape[1] * key.shape[1] * query.element_size()))
        for first in range(0, len(query), at_once):
            part = slice(first, first + at_once)
            weights = torch.bmm(query[part], key[part].transpose(1, 2)).softmax(-1)
            torch.bmm(weights.transpose(1, 2), grad[part], out=value_grad[part])
            scores_grad = torch._softmax_backward_data(
                torch.bmm(grad[part], value[part].transpose(1, 2)), weights, -1, weights.dtype
            )
            torch.bmm(scores_grad, key[part], out=query_grad[part])
            torch.bmm(scores_grad.transpose(1, 2), query[part], out=key_grad[part])
        grads = (query_grad.mul_(ctx.scale), key_grad, value_grad)
        return *(x.unflatten(0, heads) for x in grads), None
