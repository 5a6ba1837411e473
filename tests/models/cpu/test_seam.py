"""The fast path runs where it may, steps aside where it must, and gives what the plain layers give."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from videomae2 import chance
from videomae2.heads.classify import build_classifier
from videomae2.models import cpu
from videomae2.models.cpu.block import CpuBlock
from videomae2.models.cpu.linear import CpuTokenizer
from videomae2.models.encoder import Tokenizer
from videomae2.models.layers import Attention, Block, Mlp
from videomae2.targets import masked_mse, reconstruction_targets

from ... import tiny

LONG = {"num_frames": 16, "size": 96, "native_frames": 16, "native_size": 96}  # 1,152 tokens
KINDS: list[dict[str, Any]] = [
    {},
    {"cosine_attention": True, "layer_scale": 0.1, "drop_path": 0.4},
    {"mlp_checkpointing": True, "drop_path": 0.4},
    {"activation_checkpointing": True, "drop_path": 0.4},
    LONG,
]


def loss_of(network: Any, **changes: Any) -> Tensor:
    torch.manual_seed(0)
    frames, split = tiny.frames(**changes), tiny.split(**changes)
    prediction = network(frames, split)
    return masked_mse(prediction, reconstruction_targets(frames, network.encoder.config.grid, split.targets))


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach() - theirs.detach()).norm() / theirs.detach().norm().clamp(min=1e-12))


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_losses_and_gradients_are_those_of_the_plain_layers(changes: dict[str, Any]) -> None:
    values, grads = [], []
    for path in (nn.Module.train, cpu.apply):
        network = path(tiny.network(**changes))
        value = loss_of(network, **changes)
        value.backward()
        values.append(value)
        grads.append(tiny.gradients(network))
    assert relative(values[1], values[0]) < 1e-6
    for name, grad in grads[0].items():
        assert relative(grads[1][name], grad) < 2e-5, name


@pytest.mark.parametrize("changes", KINDS, ids=str)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, nullcontext])
def test_predictions_are_those_of_the_plain_layers(changes: dict[str, Any], mode: Any) -> None:
    frames, split = tiny.frames(**changes), tiny.split(**changes)
    network = tiny.network(**changes).eval()
    classifier = build_classifier(tiny.settings(**changes), 5, 1.0, chance.torch_generator(0)).eval()
    with mode():
        plain = network(frames, split), classifier(frames)
        fast = cpu.apply(network)(frames, split), cpu.apply(classifier)(frames)
    for ours, theirs in zip(fast, plain, strict=True):
        assert relative(ours, theirs) < 1e-6


def test_bf16_is_as_near_as_bf16_allows() -> None:
    plain, fast = tiny.network(), cpu.apply(tiny.network())
    exact = loss_of(plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(loss_of(fast), exact) < 2e-3
        assert relative(loss_of(plain), exact) < 2e-3


def test_applied_once_or_twice_it_is_the_same_object_with_the_same_names_and_removed_as_it_was() -> None:
    network, built = tiny.network(), tiny.network()
    assert cpu.apply(network) is network
    kinds = {type(module) for module in network.modules()}
    assert {CpuBlock, CpuTokenizer} <= kinds and not {Block, Tokenizer} & kinds
    scratch = network.encoder.blocks[0].scratch
    cpu.apply(network)
    assert all(block.scratch is scratch for block in (*network.encoder.blocks, *network.decoder.blocks))
    assert network.state_dict().keys() == built.state_dict().keys()
    assert str(cpu.remove(network)) == str(built)
    assert [type(module) for module in network.modules()] == [type(module) for module in built.modules()]
    assert network.encoder.blocks[0].__dict__.keys() == built.encoder.blocks[0].__dict__.keys()
    assert torch.equal(loss_of(network), loss_of(built))


def test_a_block_of_somebody_else_is_left_alone() -> None:
    class Other(Block):
        pass

    network = tiny.network()
    network.encoder.blocks[0].__class__ = Other
    cpu.apply(network)
    assert type(network.encoder.blocks[0]) is Other and type(network.encoder.blocks[1]) is CpuBlock
    assert type(cpu.remove(network).encoder.blocks[0]) is Other


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """How many blocks of a network took the fast path in one forward."""
    taken: list[nn.Module] = []
    attention = CpuBlock._attention

    def counted(block: CpuBlock, *given: Tensor) -> Tensor:
        taken.append(block)
        return attention(block, *given)

    monkeypatch.setattr(CpuBlock, "_attention", counted)

    def count(network: nn.Module, inside: AbstractContextManager[Any] | None = None) -> int:
        taken.clear()
        with inside or nullcontext():
            network(tiny.frames(), tiny.split())
        return len(taken)

    return count


def test_it_runs_in_training_and_in_inference(fast: Callable[..., int]) -> None:
    network = cpu.apply(tiny.network())
    assert fast(network) == 4
    assert fast(copy.deepcopy(network), torch.no_grad()) == 4
    assert fast(network, torch.inference_mode()) == 4
    assert fast(network, torch.autocast("cpu", torch.bfloat16)) == 4
    assert fast(cpu.for_inference(network, "bf16"), torch.no_grad()) == 4
    assert fast(cpu.remove(network)) == 0


def test_hooks_on_whole_blocks_do_not_matter(fast: Callable[..., int]) -> None:
    network = cpu.apply(tiny.network())
    for block in network.encoder.blocks:
        block.register_forward_hook(lambda *_: None)
    assert fast(network) == 4


def on_fc1(network: Any) -> nn.Linear:
    fc1: nn.Linear = network.encoder.blocks[0].mlp.fc1
    return fc1


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class OtherMlp(Mlp):
    pass


class OtherAttention(Attention):
    pass


class Tagged(Tensor):
    """A tensor of somebody's own kind."""


def retype(module: nn.Module, kind: type[nn.Module]) -> None:
    module.__class__ = kind


def tag_weight(module: nn.Linear) -> None:
    module.weight = nn.Parameter(module.weight.detach().as_subclass(Tagged))


TOUCHED: dict[str, Callable[[Any], Any]] = {
    "forward hook": lambda network: on_fc1(network).register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda network: on_fc1(network).register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda network: on_fc1(network).register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda network: on_fc1(network).register_full_backward_pre_hook(lambda *_: None),
    "hook on attention": lambda network: network.encoder.blocks[0].attn.register_forward_hook(
        lambda *_: None
    ),
    "hook on a norm": lambda network: network.encoder.blocks[0].norm2.register_forward_hook(lambda *_: None),
    "hook on drop path": lambda network: network.encoder.blocks[0].drop_path.register_forward_hook(print),
    "pruning": lambda network: prune.l1_unstructured(on_fc1(network), "weight", 0.5),
    "parametrization": lambda network: parametrize.register_parametrization(
        on_fc1(network), "weight", nn.Identity()
    ),
    "another linear layer": lambda network: retype(on_fc1(network), Doubled),
    "another MLP": lambda network: retype(network.encoder.blocks[0].mlp, OtherMlp),
    "another attention": lambda network: retype(network.encoder.blocks[0].attn, OtherAttention),
    "a forward of its own": lambda network: setattr(on_fc1(network), "forward", on_fc1(network).forward),
    "compiled by itself": lambda network: on_fc1(network).compile(backend="eager"),
    "another kind of tensor": lambda network: tag_weight(on_fc1(network)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("touch", TOUCHED.values(), ids=TOUCHED)
def test_one_touched_part_makes_its_block_a_plain_one_also_when_it_comes_late(
    fast: Callable[..., int], touch: Callable[[Any], Any]
) -> None:
    network = cpu.apply(tiny.network())
    assert fast(network) == 4
    touch(network)
    assert fast(network) <= 3  # a tensor of another kind makes all that follow of its kind
    assert fast(network, torch.no_grad()) <= 3


def test_a_hook_that_went_gives_the_fast_path_back(fast: Callable[..., int]) -> None:
    network = cpu.apply(tiny.network())
    handle = on_fc1(network).register_forward_hook(lambda *_: None)
    assert fast(network) == 3
    handle.remove()
    assert fast(network) == 4


@pytest.mark.parametrize(
    "inside",
    [
        lambda: FakeTensorMode(allow_non_fake_inputs=True),
        lambda: FlopCounterMode(display=False),
        torch.autograd.forward_ad.dual_level,
    ],
    ids=["fake", "flops", "forward-mode"],
)
def test_modes_that_look_inside_get_the_plain_layers(
    fast: Callable[..., int], inside: Callable[[], AbstractContextManager[Any]]
) -> None:
    network = cpu.apply(tiny.network())
    assert fast(network, inside()) == 0
    assert fast(network) == 4


def test_a_hook_of_all_modules_gets_the_plain_layers(fast: Callable[..., int]) -> None:
    network = cpu.apply(tiny.network())
    handle = nn.modules.module.register_module_forward_pre_hook(lambda *_: None)
    try:
        assert fast(network) == 0
    finally:
        handle.remove()
    assert fast(network) == 4


def test_a_watched_embedding_is_called_with_normalised_pixels() -> None:
    network, seen = cpu.apply(tiny.network()), []
    network.encoder.patch_embed.proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(tiny.frames(), tiny.split())
    assert seen[0].dtype == torch.float32 and float(seen[0].min()) < -1
