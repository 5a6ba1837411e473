"""Linear layers without gradients: the values of the plain ones, whichever way they are computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from videomae2.models import fused_linear


def layer_and_input() -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(24, 40), torch.randn(2, 5, 24)


@pytest.mark.parametrize("fuses", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
def test_bf16_on_a_cpu_is_the_plain_layer_up_to_rounding(
    monkeypatch: pytest.MonkeyPatch, fuses: bool, gelu: bool
) -> None:
    module, x = layer_and_input()
    if not fuses:
        monkeypatch.setattr(fused_linear, "_onednn_fuses", lambda: False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours, plain = fused_linear.layer(x, module, gelu), module(x)
        plain = F.gelu(plain) if gelu else plain
    assert ours.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(ours, plain, rtol=0.02, atol=0.02)
    if not fuses:
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("gelu", [True, False])
def test_fp32_is_the_plain_layer_to_the_bit(gelu: bool) -> None:
    module, x = layer_and_input()
    with torch.no_grad():
        plain = F.gelu(module(x)) if gelu else module(x)
        assert torch.equal(fused_linear.layer(x, module, gelu), plain)


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def watch(module: nn.Linear, calls: list[Any]) -> nn.Linear:
    module.register_forward_hook(lambda *_: calls.append("after"))
    return module


def watch_before(module: nn.Linear, calls: list[Any]) -> nn.Linear:
    module.register_forward_pre_hook(lambda *_: calls.append("before"))
    return module


@pytest.mark.parametrize("watched", [watch, watch_before])
def test_a_watched_layer_is_called(watched: Callable[[nn.Linear, list[Any]], nn.Linear]) -> None:
    (module, x), calls = layer_and_input(), []
    with torch.no_grad():
        fused_linear.layer(x, watched(module, calls), gelu=True)
    assert len(calls) == 1


def test_a_layer_of_another_kind_is_called() -> None:
    torch.manual_seed(0)
    module, x = Doubled(24, 40), torch.randn(2, 24)
    with torch.no_grad():
        assert torch.equal(fused_linear.layer(x, module), module(x))
        assert torch.equal(fused_linear.layer(x, module, gelu=True), F.gelu(module(x)))


def test_the_operation_is_there_where_torch_says_so() -> None:
    """On a processor with bf16 arithmetic the fused way is the one that runs."""
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert fused_linear._onednn_fuses()
