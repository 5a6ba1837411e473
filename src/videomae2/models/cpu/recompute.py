"""Norms, heads and MLPs that save less for the backward pass: what an elementwise pass recomputes is not.

Of `linear(norm(x))` autograd would save x and norm(x), of an MLP also its hidden values before and after
GELU. Here x and the values before GELU are saved: of a block ten times the embedding width for each token
instead of sixteen, for about one percent of a step's time. With `recompute` not even those before GELU are,
and it is six, for one more of an MLP's six matmuls. Values and gradients are those of the plain modules. The
gradients have no derivative of their own.

Temporaries have places of their own (`Scratch`). A C library gives a tensor the next free place that is long
enough, so wide values that come and go between those that are saved would leave holes: a fine-tuning step in
fp32 would take an eighth more memory.
"""

import math
import threading
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from videomae2.models.cpu.linear import matmul_dtype


class Scratch:
    """A network's places, one for each slot, type and thread.

    They belong to this object: a copy, or one that was pickled, starts without any.
    """

    def __init__(self) -> None:
        self._threads = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return Scratch, ()

    def __call__(self, slot: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised tensor on the CPU; the same thread's next call for `slot` overwrites it.

        What is computed in it must not outlive the caller.
        """
        slots: dict[tuple[str, torch.dtype], Tensor] = self._threads.__dict__.setdefault("slots", {})
        count = math.prod(shape)
        held = slots.get((slot, dtype))
        if held is None or held.numel() < count:
            slots.pop((slot, dtype), None)  # freed before the larger one is allocated
            with torch.inference_mode(False):  # what is made inside could not be written to outside
                held = slots[slot, dtype] = torch.empty(count, dtype=dtype, device="cpu")
        return held[:count].view(shape)


def norm_heads(
    x: Float[Tensor, "B N D"],
    norm: nn.LayerNorm,
    weight: Float[Tensor, "O D"],
    bias: Float[Tensor, "O"],
    *,
    parts: str,
    num_heads: int,
    scratch: Scratch,
) -> tuple[Float[Tensor, "B heads N d"], ...]:
    """`linear(norm(x))`, cut into `parts` such as "qkv", queries, keys and values, and those into heads.

    Each part is contiguous (`_empty_part`): one linear layer would write them side by side.
    """
    found: tuple[Tensor, ...] = _NormHeads.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, norm.eps, weight, bias, parts, num_heads, scratch
    )
    return found


def norm_mlp(
    x: Float[Tensor, "B N D"],
    norm: nn.LayerNorm,
    first: nn.Linear,
    second: nn.Linear,
    *,
    recompute: bool,
    scratch: Scratch,
) -> Float[Tensor, "B N D"]:
    """`second(gelu(first(norm(x))))` with an exact GELU; `recompute` saves no hidden value."""
    parameters = first.weight, first.bias, second.weight, second.bias
    out: Tensor = _NormMlp.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, norm.eps, *parameters, recompute, scratch
    )
    return out


def cut(
    joint: Float[Tensor, "B N O"], parts: int, num_heads: int
) -> tuple[Float[Tensor, "B heads N d"], ...]:
    """Views of the `parts` that lie side by side in the last axis, each cut into heads."""
    heads: tuple[Tensor, ...] = joint.unflatten(2, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return heads


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
        scratch: Scratch,
    ) -> tuple[Tensor, ...]:
        dtype = matmul_dtype(weight)
        cast = weight.to(dtype)
        samples, tokens, _ = x.shape
        shape = (samples, num_heads, tokens, len(weight) // (len(parts) * num_heads))
        outs = tuple(_empty_part(part, shape, dtype) for part in parts)
        ctx.save_for_backward(x, scale, shift, cast)
        ctx.eps, ctx.parts, ctx.num_heads, ctx.scratch = eps, len(parts), num_heads, scratch
        joint = scratch("wide", dtype, (samples, tokens, len(weight)))
        _linear(_norm(x, scale, shift, eps)[0].to(dtype), cast, bias, joint)
        for out, part in zip(outs, cut(joint, len(parts), num_heads), strict=True):
            out.copy_(part)
        return outs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, weight = ctx.saved_tensors
        of_x, of_scale, of_shift, _, of_weight, of_bias, *_ = ctx.needs_input_grad
        joint = ctx.scratch("wide", weight.dtype, (*x.shape[:2], len(weight)))
        for part, grad in zip(cut(joint, ctx.parts, ctx.num_heads), grads, strict=True):
            part.copy_(grad)
        normed, mean, rstd = _norm(x, scale, shift, ctx.eps)
        weight_grad, bias_grad = _parameter_grads(joint, normed.to(weight.dtype), of_weight, of_bias)
        del normed  # before the gradient of the norm's output, which is as large, is allocated
        norm_grads = _norm_grads(joint, weight, x, mean, rstd, scale, shift, (of_x, of_scale, of_shift))
        return *norm_grads, None, weight_grad, bias_grad, None, None, None


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
        scratch: Scratch,
    ) -> Tensor:
        dtype = matmul_dtype(w1)
        first, second = w1.to(dtype), w2.to(dtype)
        # Saved tensors are allocated before temporaries, so that freed temporaries leave no holes between
        # them.
        out = x.new_empty((*x.shape[:-1], len(w2)), dtype=dtype)
        wide = (*x.shape[:-1], len(w1))
        activated = scratch("wide", dtype, wide)
        hidden = scratch("hidden", dtype, wide) if recompute else x.new_empty(wide, dtype=dtype)
        _linear(_norm(x, scale, shift, eps)[0].to(dtype), first, b1, hidden)
        ctx.save_for_backward(x, scale, shift, first, b1, None if recompute else hidden, second)
        ctx.eps, ctx.scratch = eps, scratch
        return _linear(torch.ops.aten.gelu.out(hidden, out=activated), second, b2, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, first, b1, hidden, second = ctx.saved_tensors
        of_x, of_scale, of_shift, _, of_w1, of_b1, of_w2, of_b2, *_ = ctx.needs_input_grad
        normed, mean, rstd = _norm(x, scale, shift, ctx.eps)
        normed = normed.to(first.dtype)
        wide = (*x.shape[:-1], len(first))
        if hidden is None:
            hidden = _linear(normed, first, b1, ctx.scratch("hidden", first.dtype, wide))
        # One place for the values after GELU, and then for the gradient of the hidden values.
        place = ctx.scratch("wide", first.dtype, wide)
        activated = torch.ops.aten.gelu.out(hidden, out=place) if of_w2 else None
        w2_grad, b2_grad = _parameter_grads(grad, activated, of_w2, of_b2)
        hidden_grad = place
        torch.mm(grad.flatten(0, -2), second, out=hidden_grad.flatten(0, -2))
        torch.ops.aten.gelu_backward.grad_input(hidden_grad, hidden, grad_input=hidden_grad)
        del hidden
        w1_grad, b1_grad = _parameter_grads(hidden_grad, normed, of_w1, of_b1)
        del normed
        norm_grads = _norm_grads(hidden_grad, first, x, mean, rstd, scale, shift, (of_x, of_scale, of_shift))
        return *norm_grads, None, w1_grad, b1_grad, w2_grad, b2_grad, None, None


def _empty_part(part: str, shape: tuple[int, ...], dtype: torch.dtype) -> Float[Tensor, "B heads N d"]:
    """Room for queries "q", keys "k" or values "v" of `shape` [B, heads, N, d].

    Keys and values lie head after head, as attention reads them. Queries lie token after token, because what
    attention returns lies as they do, and its heads are to be joined again without a copy.
    """
    samples, heads, tokens, width = shape
    if part == "q":
        return torch.empty((samples, tokens, heads, width), dtype=dtype, device="cpu").transpose(1, 2)
    return torch.empty(shape, dtype=dtype, device="cpu")


def _linear(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    torch.addmm(bias.to(x.dtype), x.flatten(0, -2), weight.t(), out=out.view(-1, out.shape[-1]))
    return out


def _norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """x, normalised, and each token's mean and inverse standard deviation."""
    return torch.native_layer_norm(x, (x.shape[-1],), scale, shift, eps)


def _parameter_grads(
    grad: Tensor, entered: Tensor | None, of_weight: bool, of_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias of a linear layer, from the gradient of its output and its input."""
    rows = grad.flatten(0, -2)
    weight = rows.t() @ entered.flatten(0, -2) if of_weight and entered is not None else None
    return weight, rows.sum(0) if of_bias else None


def _norm_grads(  # noqa: PLR0917
    grad: Tensor,
    weight: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    scale: Tensor,
    shift: Tensor,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """The `wanted` gradients of a norm's input, scale and shift, from that of the linear layer behind it."""
    if not any(wanted):
        return None, None, None
    entered = (grad @ weight).to(x.dtype)
    return tuple(
        torch.ops.aten.native_layer_norm_backward(
            entered, x, (x.shape[-1],), mean, rstd, scale, shift, list(wanted)
        )
    )
