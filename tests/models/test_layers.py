"""Blocks: chosen queries, drop path, and attention equal to its formula in every branch."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from videomae2 import chance
from videomae2.models.layers import (
    Attention,
    Block,
    DropPath,
    LayerNorm,
    Mlp,
    drop_by_sample,
    run_blocks,
    take,
)


def block(**extra: Any) -> Any:
    torch.manual_seed(0)
    return Block(24, 3, 96, **extra)


@pytest.mark.parametrize("extra", [{}, {"cosine_attention": True, "layer_scale": 0.3}])
def test_chosen_tokens_are_those_of_the_whole_block(extra: Any) -> None:
    x, chosen = torch.randn(2, 10, 24), torch.tensor([[9, 1, 4], [0, 2, 3]])
    module = block(**extra)
    torch.testing.assert_close(module(x, chosen), take(module(x), chosen))
    torch.testing.assert_close(
        run_blocks([module, module], x, False, chosen), take(module(module(x)), chosen)
    )


def test_attention_is_its_formula_without_a_key_bias() -> None:
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
    torch.testing.assert_close(attention(norm(x)), expected)


@pytest.mark.parametrize("extra", [{}, {"cosine_attention": True, "layer_scale": 0.3, "drop_path": 0.5}])
def test_a_block_leaves_its_input_alone(extra: Any) -> None:
    x = torch.randn(2, 10, 24)
    kept, module = x.clone(), block(**extra)
    module(x)
    with torch.no_grad():
        module(x)
        module.eval()(x)
    assert torch.equal(x, kept)


def test_bf16_autocast_keeps_the_residual_in_float32() -> None:
    x = torch.randn(2, 10, 24)
    for module in (block(), block(cosine_attention=True, layer_scale=0.1)):
        with torch.autocast("cpu", torch.bfloat16):
            ours = module(x)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, module(x), rtol=0.05, atol=0.05)


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    dropped = drop(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert bool((dropped == dropped[:, :1, :1]).all())
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.03)
    torch.manual_seed(0)
    assert torch.equal(drop(x), dropped)
    assert torch.equal(drop.eval()(x), x)


def test_drop_path_leaves_the_branch_alone() -> None:
    x = torch.ones(40, 2, 3)
    torch.manual_seed(0)
    assert not torch.equal(DropPath(0.5)(x), x)
    assert torch.equal(x, torch.ones_like(x))


def test_cosine_attention_is_scaled_by_at_most_a_hundred() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2, cosine=True), torch.randn(1, 5, 8)
    assert attention.scale is not None
    with torch.no_grad():
        attention.scale.fill_(100.0)
        largest = attention(x)
        attention.scale.fill_(torch.tensor(100.0).log())
        assert torch.equal(attention(x), largest)
        attention.scale.fill_(torch.tensor(50.0).log())
        assert not torch.allclose(attention(x), largest)


def saved_values(module: Any, x: Any) -> Any:
    """How many values autograd saves of a forward, beside parameters."""
    known, saved = {parameter.data_ptr() for parameter in module.parameters()}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.update({tensor.data_ptr(): tensor.numel()} if tensor.data_ptr() not in known else {})
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x)
    return sum(saved.values())


def test_a_checkpointed_mlp_saves_its_input_alone_and_only_in_training() -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(4, 16, recompute=True), torch.randn(1, 5, 4)
    assert saved_values(mlp, x) <= x.numel() + 1  # and an empty tensor, to which torch hangs the checkpoint
    assert saved_values(mlp.eval(), x) >= 2 * 5 * 16


def test_a_sample_loses_the_same_branches_in_any_batch() -> None:
    blocks = nn.ModuleList(Block(12, 3, 24, drop_path=0.5) for _ in range(3))
    x, keys = torch.randn(6, 5, 12, generator=chance.torch_generator(0)), torch.arange(6) * 977

    def dropped(part: slice) -> torch.Tensor:
        drop_by_sample(blocks, keys[part])
        return run_blocks(blocks, x[part], recompute=False)

    whole = dropped(slice(0, 6))
    torch.testing.assert_close(torch.cat([dropped(slice(0, 2)), dropped(slice(2, 6))]), whole)
    assert torch.equal(dropped(slice(0, 6)), whole), "and whatever torch's generator says"
    drop_by_sample(blocks, keys + 1)
    assert not torch.equal(run_blocks(blocks, x, recompute=False), whole)
    first = next(each for each in blocks.modules() if isinstance(each, DropPath)).drawn
    assert first is not None and first.shape == (2, 6)
    assert not torch.equal(first[0], first[1]), "attention and MLP are dropped apart"


def test_what_is_drawn_by_sample_drops_as_often_as_it_should() -> None:
    drop = DropPath(0.25)
    drop_by_sample(drop, torch.arange(4000))
    for branch in (0, 1):
        kept = (drop(torch.ones(4000, 1, 1), branch) > 0).float().mean()
        assert abs(float(kept) - 0.75) < 0.02
