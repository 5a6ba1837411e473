"""Norms and MLPs that keep less for the backward pass: what an elementwise pass makes again is not kept.

Of `linear(norm(x))` autograd would keep x and norm(x), of an MLP also its hidden values before and after
GELU. Here x and the values before GELU stay: of a block ten times a token's width instead of sixteen, for
about one part in a hundred of a step's time. With `recompute` not even those before GELU stay, and it is six,
for one more of an MLP's six products. Values and gradients are those of the plain modules, which run without
gradients (`fused_linear.py`) and under torch.compile. The gradients have no derivative of their own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from videomae2.models import fused_linear
from videomae2.models.modes import only_infers, product_dtype, trains_eagerly
from videomae2.models.scratch import scratch


def norm_linear(
    x: Float[Tensor, "B N D"], norm: nn.LayerNorm, weight: Float[Tensor, "O D"], bias: Float[Tensor, "O"]
) -> Float[Tensor, "B N O"]:
    """`linear(norm(x))`."""
    if trains_eagerly():
        return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, weight, bias)
    return (fused_linear.linear if only_infers() else F.linear)(norm(x), weight, bias)


def norm_heads(
    x: Float[Tensor, "B N D"],
    norm: nn.LayerNorm,
    weight: Float[Tensor, "O D"],
    bias: Float[Tensor, "O"],
    *,
    parts: str,
    num_heads: int,
) -> tuple[Float[Tensor, "B heads N d"], ...]:
    """`linear(norm(x))`, cut into `parts`, "q" queries, "k" keys, "v" values, such as "qkv", and those into
    heads.

    In training on a CPU each part lies by itself (`empty_part`).
    """
    if x.device.type == "cpu" and trains_eagerly():
        return _NormHeads.apply(x, norm.weight, norm.bias, norm.eps, weight, bias, parts, num_heads)
    return _cut(norm_linear(x, norm, weight, bias), len(parts), num_heads)


def empty_part(
    part: str, allocate: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...]
) -> Float[Tensor, "B heads N d"]:
    """Room for queries, keys or values of `shape` [B, heads, N, d], as torch's attention on a CPU is fastest
    with them.

    Parts that lie side by side, as one linear layer writes them, cost it more than sorting them does. Keys
    and values lie head after head. Queries lie token after token, for what attention returns lies as they do,
    and is to be joined again.
    """
    if part != "q":
        return allocate(shape)
    samples, heads, tokens, width = shape
    return allocate((samples, tokens, heads, width)).transpose(1, 2)


def norm_mlp(
    x: Float[Tensor, "B N D"],
    norm: nn.LayerNorm,
    first: nn.Linear,
    second: nn.Linear,
    recompute: bool = False,
) -> Float[Tensor, "B N D"]:
    """`second(gelu(first(norm(x))))` with an exact GELU; `recompute` makes the hidden values again in the
    backward pass.
    """
    if trains_eagerly():
        parameters = first.weight, first.bias, second.weight, second.bias
        return _NormMlp.apply(x, norm.weight, norm.bias, norm.eps, *parameters, recompute)
    if only_infers():
        return fused_linear.layer(fused_linear.layer(norm(x), first, gelu=True), second)
    if recompute and torch.is_grad_enabled():
        return checkpoint(_plain_mlp, x, norm, first, second, use_reentrant=False)
    return _plain_mlp(x, norm, first, second)


def _plain_mlp(x: Tensor, norm: nn.LayerNorm, first: nn.Linear, second: nn.Linear) -> Tensor:
    return second(F.gelu(first(norm(x))))


def _cut(
    joint: Float[Tensor, "B N O"], parts: int, num_heads: int
) -> tuple[Float[Tensor, "B heads N d"], ...]:
    """Views of the parts, in heads."""
    return joint.unflatten(2, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor
    ) -> Tensor:
        dtype = product_dtype(weight)
        cast = weight.to(dtype)
        out = _stays(x, weight, dtype)
        ctx.save_for_backward(x, scale, shift, cast)
        ctx.eps = eps
        return _linear(_norm(x, scale, shift, eps)[0].to(dtype), cast, bias, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _norm_linear_grads(ctx, grad, *ctx.saved_tensors)


class _NormHeads(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        weight: Tensor,
        bias: Tensor,
        parts: str,
        num_heads: int,
    ) -> tuple[Tensor, ...]:
        dtype = product_dtype(weight)
        cast = weight.to(dtype)
        samples, tokens, _ = x.shape
        shape = (samples, num_heads, tokens, len(weight) // (len(parts) * num_heads))
        outs = tuple(empty_part(part, partial(x.new_empty, dtype=dtype), shape) for part in parts)
        ctx.save_for_backward(x, scale, shift, cast)
        ctx.eps, ctx.parts, ctx.num_heads = eps, len(parts), num_heads
        joint = scratch("wide", cast, (samples, tokens, len(weight)))
        _linear(_norm(x, scale, shift, eps)[0].to(dtype), cast, bias, joint)
        for out, part in zip(outs, _cut(joint, len(parts), num_heads), strict=True):
            out.copy_(part)
        return outs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, weight = ctx.saved_tensors
        joint = scratch("wide", weight, (*x.shape[:2], len(weight)))
        for part, grad in zip(_cut(joint, ctx.parts, ctx.num_heads), grads, strict=True):
            part.copy_(grad)
        return *_norm_linear_grads(ctx, joint, x, scale, shift, weight), None, None


class _NormMlp(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        recompute: bool,
    ) -> Tensor:
        dtype = product_dtype(w1)
        first, second = w1.to(dtype), w2.to(dtype)
        out = _stays(x, w2, dtype)
        wide = (*x.shape[:-1], len(w1))
        activated = scratch("wide", first, wide)
        hidden = scratch("hidden", first, wide) if recompute else _stays(x, w1, dtype)
        _linear(_norm(x, scale, shift, eps)[0].to(dtype), first, b1, hidden)
        ctx.save_for_backward(x, scale, shift, first, b1, None if recompute else hidden, second)
        ctx.eps = eps
        return _linear(torch.ops.aten.gelu.out(hidden, out=activated), second, b2, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, first, b1, hidden, second = ctx.saved_tensors
        of_x, of_scale, of_shift, _, of_w1, of_b1, of_w2, of_b2, _ = ctx.needs_input_grad
        normed, mean, deviation = _norm(x, scale, shift, ctx.eps)
        normed = normed.to(first.dtype)
        wide = (*x.shape[:-1], len(first))
        if hidden is None:
            hidden = _linear(normed, first, b1, scratch("hidden", first, wide))
        place = scratch("wide", first, wide)  # of the activated values, then of the hidden ones' gradient
        activated = torch.ops.aten.gelu.out(hidden, out=place) if of_w2 else None
        w2_grad, b2_grad = _parameter_grads(grad, activated, of_w2, of_b2)
        hidden_grad = place
        torch.mm(grad.flatten(0, -2), second, out=hidden_grad.flatten(0, -2))
        torch.ops.aten.gelu_backward.grad_input(hidden_grad, hidden, grad_input=hidden_grad)
        del hidden
        w1_grad, b1_grad = _parameter_grads(hidden_grad, normed, of_w1, of_b1)
        del normed
        norm_grads = _norm_grads(
            hidden_grad, first, x, mean, deviation, scale, shift, (of_x, of_scale, of_shift)
        )
        return *norm_grads, None, w1_grad, b1_grad, w2_grad, b2_grad, None


def _norm_linear_grads(  # noqa: PLR0917
    ctx: Any, grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of what entered `linear(norm(x))`, from the gradient of what left it."""
    of_x, of_scale, of_shift, _, of_weight, of_bias = ctx.needs_input_grad[:6]
    normed, mean, deviation = _norm(x, scale, shift, ctx.eps)
    weight_grad, bias_grad = _parameter_grads(grad, normed.to(weight.dtype), of_weight, of_bias)
    del normed
    norm_grads = _norm_grads(grad, weight, x, mean, deviation, scale, shift, (of_x, of_scale, of_shift))
    return *norm_grads, None, weight_grad, bias_grad


def _stays(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory of what a linear layer makes of x.

    What stays is asked for before what goes again: an allocator that takes the next free place, as a C
    library's, then has no holes between what stays.
    """
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=dtype)


def _linear(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    torch.addmm(bias.to(x.dtype), x.flatten(0, -2), weight.t(), out=out.view(-1, out.shape[-1]))
    return out


def _norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """x, normed, and each token's mean and inverse deviation."""
    return torch.native_layer_norm(x, (x.shape[-1],), scale, shift, eps)


def _parameter_grads(
    grad: Tensor, entered: Tensor | None, of_weight: bool, of_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias of a linear layer, from the gradient of what left it and what entered
    it.
    """
    rows = grad.flatten(0, -2)
    weight = rows.t() @ entered.flatten(0, -2) if of_weight and entered is not None else None
    return weight, rows.sum(0) if of_bias else None


def _norm_grads(  # noqa: PLR0917
    grad: Tensor,
    weight: Tensor,
    x: Tensor,
    mean: Tensor,
    deviation: Tensor,
    scale: Tensor,
    shift: Tensor,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Those gradients of a norm's input, scale and shift that are wanted, from the gradient of what left the
    linear layer.
    """
    if not any(wanted):
        return None, None, None
    entered = (grad @ weight).to(x.dtype)
    return tuple(
        torch.ops.aten.native_layer_norm_backward(
            entered, x, (x.shape[-1],), mean, deviation, scale, shift, list(wanted)
        )
    )
