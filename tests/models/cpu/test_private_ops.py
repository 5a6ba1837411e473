"""What we use of torch that it does not promise to keep: a test of each names what changed."""

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

ops = torch.ops


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def test_mkldnn_linear_pointwise(x: torch.Tensor) -> None:
    if not ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bf16 arithmetic, and the operation is not used")
    weight, bias = torch.eye(8), torch.ones(8)
    given = (x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    plain = ops.mkldnn._linear_pointwise(*given, "none", [], "none")
    torch.testing.assert_close(plain.float(), x + 1, rtol=0.02, atol=0.02)
    activated = ops.mkldnn._linear_pointwise(*given, "gelu", [], "none")
    torch.testing.assert_close(activated.float(), F.gelu(x + 1), rtol=0.02, atol=0.02)


def test_mkldnn_is_bf16_supported() -> None:
    """On a processor with bf16 arithmetic the fused way is the one that runs."""
    assert isinstance(ops.mkldnn._is_mkldnn_bf16_supported(), bool)
    if ops.mkldnn._is_mkldnn_bf16_supported():
        assert hasattr(ops.mkldnn, "_linear_pointwise")


def test_softmax_backward_data(x: torch.Tensor) -> None:
    leaf = x.clone().requires_grad_()
    weights = leaf.softmax(-1)
    grad = torch.linspace(-1, 1, x.numel()).view_as(x)
    (expected,) = torch.autograd.grad(weights, leaf, grad)
    found = torch._softmax_backward_data(grad, weights.detach(), -1, torch.float32)
    torch.testing.assert_close(found, expected)


def test_native_layer_norm_and_its_backward(x: torch.Tensor) -> None:
    norm, leaf = nn.LayerNorm(8), x.clone().requires_grad_()
    normed, mean, rstd = torch.native_layer_norm(x, (8,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(normed, norm(leaf))
    torch.testing.assert_close(mean, x.mean(-1, keepdim=True))
    expected = torch.autograd.grad(norm(leaf), (leaf, norm.weight, norm.bias), x)
    found = ops.aten.native_layer_norm_backward(
        x, x, (8,), mean, rstd, norm.weight, norm.bias, [True, True, True]
    )
    torch.testing.assert_close(tuple(found), expected)


def test_gelu_out_and_gelu_in_place(x: torch.Tensor) -> None:
    out = torch.empty_like(x)
    assert ops.aten.gelu.out(x, out=out) is out
    assert torch.equal(out, F.gelu(x))
    assert torch.equal(ops.aten.gelu_(x.clone()), out)


def test_gelu_backward_grad_input(x: torch.Tensor) -> None:
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.gelu(leaf), leaf, torch.ones_like(x))
    grad = torch.ones_like(x)
    ops.aten.gelu_backward.grad_input(grad, x, grad_input=grad)  # in the place of what came
    torch.testing.assert_close(grad, expected)


class Nothing(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_len_torch_dispatch_stack_and_get_current_dispatch_mode_stack() -> None:
    assert torch._C._len_torch_dispatch_stack() == 0
    with Nothing() as mode, FakeTensorMode() as fake:  # type: ignore[no-untyped-call]
        assert torch._C._len_torch_dispatch_stack() == 2
        assert {*_get_current_dispatch_mode_stack()} == {mode, fake}


def test_are_functorch_transforms_active() -> None:
    assert not torch._C._are_functorch_transforms_active()
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch._C._are_functorch_transforms_active())
        return x

    torch.func.vmap(look)(torch.ones(2))
    assert seen == [True]


def test_get_tracing_state(x: torch.Tensor) -> None:
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch._C._get_tracing_state())
        return 2 * x

    torch.jit.trace(look, x, check_trace=False)
    look(x)
    assert seen[0] is not None and seen[1] is None


def test_forward_ad_current_level() -> None:
    assert forward_ad._current_level == -1
    with forward_ad.dual_level():
        assert forward_ad._current_level == 0


def test_has_any_global_hook() -> None:
    assert not torch_module._has_any_global_hook()
    for register in (
        torch_module.register_module_forward_hook,
        torch_module.register_module_forward_pre_hook,
        torch_module.register_module_full_backward_hook,
        torch_module.register_module_full_backward_pre_hook,
    ):
        handle = register(lambda *_: None)
        try:
            assert torch_module._has_any_global_hook(), register.__name__
        finally:
            handle.remove()


@pytest.mark.parametrize(
    ("register", "kept"),
    [
        ("register_forward_pre_hook", "_forward_pre_hooks"),
        ("register_forward_hook", "_forward_hooks"),
        ("register_full_backward_pre_hook", "_backward_pre_hooks"),
        ("register_full_backward_hook", "_backward_hooks"),
    ],
)
def test_hooks_of_a_module(register: str, kept: str) -> None:
    module = nn.Linear(2, 2)
    assert not getattr(module, kept)
    getattr(module, register)(lambda *_: None)
    assert len(getattr(module, kept)) == 1


def test_parameters_and_compiled_call_impl_of_a_module() -> None:
    module = nn.Linear(2, 2, bias=False)
    assert list(module._parameters) == ["weight", "bias"]
    assert module._compiled_call_impl is None
    module.compile(backend="eager")
    assert module._compiled_call_impl is not None
