"""The tokenizer is the released convolution, and reads nothing but the tokens asked for."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from videomae2.architecture import IMAGENET_MEAN, IMAGENET_STD, encoder_config
from videomae2.models.encoder import CubeEmbedding, Tokenizer

from .. import tiny


def by_convolution(tokenizer: Any, clip: Any) -> Any:
    mean, std = (torch.tensor(values).view(1, 1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    normal = ((clip.float() / 255 - mean) / std).transpose(1, 2)
    weight, bias = tokenizer.proj.weight, tokenizer.proj.bias
    return F.conv3d(normal, weight, bias, stride=weight.shape[2:]).flatten(2).transpose(1, 2)


def test_all_tokens_are_the_released_convolution() -> None:
    tokenizer, clip = Tokenizer(encoder_config(tiny.settings())), tiny.frames()
    torch.testing.assert_close(tokenizer(clip), by_convolution(tokenizer, clip), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tokenizer(clip.float() / 255), tokenizer(clip))


def test_chosen_tokens_are_those_of_all() -> None:
    tokenizer, clip = Tokenizer(encoder_config(tiny.settings())), tiny.frames()
    tokens = torch.tensor([[3, 60, 7], [0, 1, 63]])
    chosen = tokenizer(clip, tokens)
    torch.testing.assert_close(chosen, tokenizer(clip).gather(1, tokens[..., None].expand(-1, -1, 48)))


def test_pixels_of_other_tokens_are_never_read() -> None:
    """Not-a-number everywhere but in one cube leaves that cube's embedding a number."""
    tokenizer = Tokenizer(encoder_config(tiny.settings()))
    clip = torch.full(tokenizer.config.grid.clip_shape(1), float("nan"))
    clip[:, :2, :, :8, :8] = 0.5
    assert bool(tokenizer(clip, torch.tensor([[0]])).isfinite().all())


def test_mean_and_std_are_in_no_checkpoint() -> None:
    assert set(Tokenizer(encoder_config(tiny.settings())).state_dict()) == {"proj.weight", "proj.bias"}


def test_the_embedding_is_called_with_one_cube_a_row() -> None:
    tokenizer, clip = Tokenizer(encoder_config(tiny.settings())), tiny.frames()
    seen: list[Any] = []
    tokenizer.proj.register_forward_hook(lambda _, given, out: seen.extend((given[0].shape, out.shape)))
    tokenizer(clip, torch.tensor([[3, 60, 7], [0, 1, 63]]))
    assert seen == [(6, 3, 2, 8, 8), (6, 48, 1, 1, 1)]


@pytest.mark.parametrize("shape", [(5, 3, 2, 4, 4), (2, 3, 4, 8, 12), (3, 2, 4, 4)], ids=str)
def test_the_embedding_is_a_convolution_for_inputs_of_any_shape(shape: Any) -> None:
    torch.manual_seed(0)
    embedding, plain = CubeEmbedding(3, 6, (2, 4, 4), (2, 4, 4)), torch.nn.Conv3d(3, 6, (2, 4, 4), (2, 4, 4))
    plain.load_state_dict(embedding.state_dict())
    x, grads = torch.randn(shape), []
    torch.testing.assert_close(embedding(x), plain(x))
    for module in (embedding, plain):
        grads.append(torch.autograd.grad(module(x).square().sum(), list(module.parameters())))
    torch.testing.assert_close(*grads)


def test_the_embedding_refuses_what_a_convolution_refuses() -> None:
    embedding = CubeEmbedding(3, 6, (2, 4, 4), (2, 4, 4))
    with pytest.raises(RuntimeError, match="channels"):
        embedding(torch.randn(5, 4, 2, 4, 4))
