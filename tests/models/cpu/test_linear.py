"""Linear layers without gradients: the values of the plain ones, whichever way they are computed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from videomae2.architecture import encoder_config
from videomae2.models import cpu
from videomae2.models.cpu import linear
from videomae2.models.cpu.linear import Bf16Linear, CpuTokenizer
from videomae2.models.encoder import Tokenizer

from ... import tiny


def layer_and_input() -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(24, 40), torch.randn(2, 5, 24)


def both(module: nn.Linear, x: torch.Tensor, gelu: bool) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        plain = module(x)
        ours = linear.linear(x, module.weight, module.bias, gelu)
        return ours, F.gelu(plain) if gelu else plain


@pytest.mark.parametrize("fuses", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
def test_bf16_is_the_plain_layer_up_to_rounding(
    monkeypatch: pytest.MonkeyPatch, fuses: bool, gelu: bool
) -> None:
    if not fuses:
        monkeypatch.setattr(linear, "onednn_fuses", lambda: False)
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = both(*layer_and_input(), gelu)
    assert ours.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(ours, plain, rtol=0.02, atol=0.02)
    if not fuses:
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("gelu", [True, False])
def test_fp32_is_the_plain_layer_to_the_bit(gelu: bool) -> None:
    assert torch.equal(*both(*layer_and_input(), gelu))


def test_a_layer_in_bf16_computes_what_it_does_under_autocast() -> None:
    module, x = layer_and_input()
    with torch.autocast("cpu", torch.bfloat16):
        expected = module(x)
    module.__class__ = Bf16Linear
    module.to(torch.bfloat16)
    assert torch.equal(module(x), expected)
    assert torch.equal(module(x.double()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), expected)


TOKENS = torch.tensor([[3, 60, 7], [0, 1, 63]])


@pytest.mark.parametrize("tokens", [None, TOKENS], ids=["all", "some"])
@pytest.mark.parametrize("scale", [1, 255], ids=["uint8", "float"])
def test_mean_and_standard_deviation_are_folded_into_the_weights(
    tokens: torch.Tensor | None, scale: int
) -> None:
    tokenizer, clip = Tokenizer(encoder_config(tiny.settings())), tiny.frames()
    clip = clip if scale == 1 else clip / scale
    parameters = list(tokenizer.parameters())
    plain = tokenizer(clip, tokens)
    plain_grads = torch.autograd.grad(plain.square().sum(), parameters)
    assert type(cpu.apply(tokenizer)) is CpuTokenizer
    ours = tokenizer(clip, tokens)
    assert not torch.equal(ours, plain)  # it did run
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), parameters), plain_grads, rtol=1e-4, atol=1e-3
    )
