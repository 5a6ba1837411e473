"""Attention on a CPU: the values of the fused kernel, and gradients as near to the exact ones as its own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from videomae2.models.cpu import attention
from videomae2.models.cpu.attention import attend

SHAPES = [(20, 20), (300, 300), (130, 290)]  # written out, recomputed, and recomputed for some of the queries


def operands(queries: int, keys: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, queries, 16), (2, 3, keys, 16), (2, 3, keys, 16), (2, 3, queries, 16)]
    return [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]


def gradients(given: list[Tensor], function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    *operands, grad = given
    leaves = [each.clone().requires_grad_() for each in operands]
    out = function(*leaves)
    return out, *torch.autograd.grad(out, leaves, grad)


def error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize(("queries", "keys"), SHAPES)
@pytest.mark.parametrize("scale", [None, 1.0])
def test_values_and_gradients_are_as_exact_as_bf16_allows(
    queries: int, keys: int, scale: float | None
) -> None:
    given = operands(queries, keys)
    exact = gradients(
        [each.double() for each in given],
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=scale),
    )
    ours = gradients(given, lambda q, k, v: attend(q, k, v, scale))
    for mine, true in zip(ours, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        assert error(mine, true) < 0.02


def test_heads_in_any_number_of_parts_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands(300, 300)
    whole = gradients(given, attend)
    monkeypatch.setattr(attention, "_CACHE", 1)  # two heads at a time
    parts = gradients(given, attend)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_long_sequences_keep_no_matrix_of_scores() -> None:
    query, key, value, _ = operands(300, 300)
    largest = []

    def pack(tensor: Tensor) -> Tensor:
        largest.append(tensor.shape[-1])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attend(query.requires_grad_(), key, value)
    assert largest == [16, 16, 16]
