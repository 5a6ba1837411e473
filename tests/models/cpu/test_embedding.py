"""The embedding of raw pixels is that of normalised ones, up to rounding."""

import pytest
import torch

from videomae2.architecture import encoder_config
from videomae2.models import cpu
from videomae2.models.cpu.embedding import CpuTokenizer
from videomae2.models.tokenizer import Tokenizer

from ... import tiny

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
