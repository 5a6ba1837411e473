"""Attention on a CPU, where torch's fused kernel is slow on strided operands, and in bf16 slow backward.

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
from videomae2.cost.memory import APART_FROM
from videomae2.models.cpu.scratch import Scratch

_CACHE = 2 << 20
"""Bytes of attention weights that are worked on at once: what two cores' second-level caches hold beside
their operands.
"""


def attend(
    query: Float[Tensor, "B heads M d"],
    key: Float[Tensor, "B heads N d"],
    value: Float[Tensor, "B heads N d"],
    scale: float | None,
    scratch: Scratch,
) -> Float[Tensor, "B heads M d"]:
    """softmax(query key^T * scale) value; scale is d ** -0.5 unless given."""
    if torch.is_grad_enabled():
        if query.dtype == torch.bfloat16:
            return attend_bf16(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
    elif query.dtype == torch.float32 and key.shape[2] >= APART_FROM:
        # One linear layer writes queries, keys and values side by side; reading them so costs the kernel more
        # than copies do.
        query, key, value = (
            _copy(part, x, scratch) for part, x in zip("qkv", (query, key, value), strict=True)
        )
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def attend_bf16(
    query: Float[Tensor, "B heads M d"],
    key: Float[Tensor, "B heads N d"],
    value: Float[Tensor, "B heads N d"],
    scale: float,
) -> Float[Tensor, "B heads M d"]:
    """softmax(query key^T * scale) value, for training."""
    if key.shape[2] <= EXPLICIT_UP_TO:
        # So few that recomputing the weights would cost more than saving them.
        weights = (query * scale @ key.transpose(-2, -1)).softmax(-1).to(value.dtype)
        return weights @ value
    attended: Tensor = _Attention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return attended


def part_shape(part: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """How to allocate queries "q", keys "k" or values "v" of [B, heads, N, d]: see `as_part`.

    Keys and values lie head after head, as the kernel reads them. Queries lie token after token, because what
    attention returns lies as they do, and its heads are to be joined again without a copy.
    """
    samples, heads, tokens, width = shape
    return (samples, tokens, heads, width) if part == "q" else shape


def as_part(part: str, allocated: Tensor) -> Float[Tensor, "B heads N d"]:
    """Memory of `part_shape`, seen as [B, heads, N, d]."""
    return allocated.transpose(1, 2) if part == "q" else allocated


def _copy(part: str, x: Float[Tensor, "B heads N d"], scratch: Scratch) -> Float[Tensor, "B heads N d"]:
    return as_part(part, scratch(part, x.dtype, part_shape(part, tuple(x.shape)))).copy_(x)


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
        query_grad, key_grad, value_grad = (torch.empty(x.shape, dtype=x.dtype) for x in (query, key, value))
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
