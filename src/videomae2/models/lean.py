"""Norms and MLPs that keep less for the backward pass: what an elementwise pass makes again is not kept.

Of `linear(norm(x))` autograd would keep x and norm(x), of an MLP also its hidden values before and after GELU. Here x and
the values before GELU stay: of a block ten times a token's width instead of sixteen, for about one part in a hundred of a
step's time. Values and gradients are those of the plain modules, which run without gradients and under torch.compile. The
gradients have no derivative of their own.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def trains_eagerly() -> bool:
    """Whether autograd keeps what is computed now; under torch.compile its own partitioner decides what is kept."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def product_dtype(weight: Tensor) -> torch.dtype:
    """What a linear layer of this weight computes in: autocast's type inside autocast, else its own."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def norm_linear(
    x: Float[Tensor, "B N D"], norm: nn.LayerNorm, weight: Float[Tensor, "O D"], bias: Float[Tensor, "O"]
) -> Float[Tensor, "B N O"]:
    """`linear(norm(x))`."""
    if not trains_eagerly():
        return F.linear(norm(x), weight, bias)
    return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, weight, bias)


def norm_mlp(x: Float[Tensor, "B N D"], norm: nn.LayerNorm, first: nn.Linear, second: nn.Linear) -> Float[Tensor, "B N D"]:
    """`second(gelu(first(norm(x))))` with an exact GELU."""
    if not trains_eagerly():
        return second(F.gelu(first(norm(x))))
    return _NormMlp.apply(x, norm.weight, norm.bias, norm.eps, first.weight, first.bias, second.weight, second.bias)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor
    ) -> Tensor:
        dtype = product_dtype(weight)
        normed, mean, deviation = torch.native_layer_norm(x, (x.shape[-1],), scale, shift, eps)
        cast = weight.to(dtype)
        ctx.save_for_backward(x, mean, deviation, scale, shift, cast)
        ctx.eps = eps
        return F.linear(normed.to(dtype), cast, bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, deviation, scale, shift, weight = ctx.saved_tensors
        of_x, of_scale, of_shift, _, of_weight, of_bias = ctx.needs_input_grad
        normed = _norm_again(x, scale, shift, ctx.eps, weight.dtype) if of_weight else None
        weight_grad, bias_grad = _parameter_grads(grad, normed, of_weight, of_bias)
        del normed
        norm_grads = _norm_grads(grad, weight, x, mean, deviation, scale, shift, (of_x, of_scale, of_shift))
        return *norm_grads, None, weight_grad, bias_grad


class _NormMlp(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
    ) -> Tensor:
        dtype = product_dtype(w1)
        normed, mean, deviation = torch.native_layer_norm(x, (x.shape[-1],), scale, shift, eps)
        first, second = w1.to(dtype), w2.to(dtype)
        hidden = F.linear(normed.to(dtype), first, b1.to(dtype))
        ctx.save_for_backward(x, mean, deviation, scale, shift, first, hidden, second)
        ctx.eps = eps
        return F.linear(F.gelu(hidden), second, b2.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, deviation, scale, shift, first, hidden, second = ctx.saved_tensors
        of_x, of_scale, of_shift, _, of_w1, of_b1, of_w2, of_b2 = ctx.needs_input_grad
        w2_grad, b2_grad = _parameter_grads(grad, F.gelu(hidden) if of_w2 else None, of_w2, of_b2)
        hidden_grad = torch.ops.aten.gelu_backward(grad @ second, hidden)
        del hidden
        normed = _norm_again(x, scale, shift, ctx.eps, first.dtype) if of_w1 else None
        w1_grad, b1_grad = _parameter_grads(hidden_grad, normed, of_w1, of_b1)
        del normed
        norm_grads = _norm_grads(hidden_grad, first, x, mean, deviation, scale, shift, (of_x, of_scale, of_shift))
        return *norm_grads, None, w1_grad, b1_grad, w2_grad, b2_grad


def _norm_again(x: Tensor, scale: Tensor, shift: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), scale, shift, eps).to(dtype)


def _parameter_grads(grad: Tensor, entered: Tensor | None, of_weight: bool, of_bias: bool) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias of a linear layer, from the gradient of what left it and what entered it."""
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
    """Those gradients of a norm's input, scale and shift that are wanted, from the gradient of what left the linear layer."""
    if not any(wanted):
        return None, None, None
    entered = (grad @ weight).to(x.dtype)
    return tuple(
        torch.ops.aten.native_layer_norm_backward(entered, x, (x.shape[-1],), mean, deviation, scale, shift, list(wanted))
    )
