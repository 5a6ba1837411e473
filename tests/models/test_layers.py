"""Blocks: chosen queries, drop path, and attention equal to its formula in every branch."""

import pytest
import torch
from torch.nn import functional as F

from videomae2.models.layers import (
    APART_FROM,
    Attention,
    Block,
    DropPath,
    LayerNorm,
    attend,
    run_blocks,
    take,
)


def block(**extra):
    torch.manual_seed(0)
    return Block(24, 3, 96, **extra)


@pytest.mark.parametrize("extra", [{}, {"cosine_attention": True, "layer_scale": 0.3}])
def test_chosen_tokens_are_those_of_the_whole_block(extra):
    x, chosen = torch.randn(2, 10, 24), torch.tensor([[9, 1, 4], [0, 2, 3]])
    module = block(**extra)
    torch.testing.assert_close(module(x, chosen), take(module(x), chosen))
    torch.testing.assert_close(
        run_blocks([module, module], x, False, chosen), take(module(module(x)), chosen)
    )


def test_attention_is_its_formula_without_a_key_bias():
    torch.manual_seed(0)
    attention, norm, x = Attention(8, 2), LayerNorm(8), torch.randn(1, 5, 8)
    torch.nn.init.normal_(attention.q_bias)
    torch.nn.init.normal_(attention.v_bias)
    query, key, value = (
        part.unflatten(-1, (2, 4)).transpose(1, 2)
        for part in F.linear(norm(x), attention.qkv.weight).chunk(3, -1)
    )
    query = query + attention.q_bias.unflatten(0, (2, 1, 4))
    value = value + attention.v_bias.unflatten(0, (2, 1, 4))
    weights = (query @ key.transpose(-2, -1) / 2).softmax(-1)
    expected = attention.proj((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, x, norm), expected)


@pytest.mark.parametrize("scale", [None, 1.0])
def test_attention_written_out_for_bf16_on_a_cpu_agrees_with_the_fused_kernel(scale):
    query, key, value = torch.randn(3, 2, 3, 20, 16, generator=torch.Generator().manual_seed(0))
    expected = attend(query, key, value, scale)
    ours = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), scale)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("asking", [APART_FROM, 7])
def test_long_attention_without_gradients_is_that_with_them(asking):
    side_by_side = torch.randn(2, APART_FROM, 3, 4, 8, generator=torch.Generator().manual_seed(0)).permute(
        2, 0, 3, 1, 4
    )
    query, key, value = side_by_side.unbind(0)
    query = query[:, :, :asking]
    expected = attend(query, key, value)
    with torch.no_grad():
        torch.testing.assert_close(attend(query, key, value), expected)
        copies = [attend(query + number, key, value) for number in range(2)]
    assert not torch.equal(*copies), (
        "what an earlier call returned lies apart from what the next one works in"
    )
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(attend(query, key, value), expected)


@pytest.mark.parametrize("extra", [{}, {"cosine_attention": True, "layer_scale": 0.3, "drop_path": 0.5}])
def test_a_block_leaves_its_input_alone(extra):
    x = torch.randn(2, 10, 24)
    kept, module = x.clone(), block(**extra)
    module(x)
    with torch.no_grad():
        module(x)
        module.eval()(x)
    assert torch.equal(x, kept)


def test_bf16_autocast_keeps_the_residual_in_float32():
    x = torch.randn(2, 10, 24)
    for module in (block(), block(cosine_attention=True, layer_scale=0.1)):
        with torch.autocast("cpu", torch.bfloat16):
            ours = module(x)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, module(x), rtol=0.05, atol=0.05)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    dropped = drop(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert bool((dropped == dropped[:, :1, :1]).all())
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.03)
    torch.manual_seed(0)
    assert torch.equal(drop(x), dropped)
    assert torch.equal(drop.eval()(x), x)


def test_drop_path_in_place_drops_the_same_samples_in_the_tensor_that_came():
    plain, inplace, x = DropPath(0.5), DropPath(0.5, inplace=True), torch.ones(40, 2, 3)
    torch.manual_seed(0)
    dropped = plain(x)
    assert torch.equal(x, torch.ones_like(x))
    torch.manual_seed(0)
    assert inplace(x) is x
    assert torch.equal(x, dropped)
