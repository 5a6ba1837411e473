"""What saves less for the backward pass gives the values and gradients of the plain modules."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from videomae2.models.cpu import recompute
from videomae2.models.cpu.recompute import Scratch
from videomae2.models.layers import LayerNorm

SCRATCH = Scratch()


def parts() -> nn.ModuleDict:
    torch.manual_seed(0)
    made = nn.ModuleDict({"norm": LayerNorm(12), "first": nn.Linear(12, 20), "second": nn.Linear(20, 12)})
    for parameter in made["norm"].parameters():
        nn.init.normal_(parameter)
    return made


def plain_linear(x: Tensor, made: nn.ModuleDict) -> Tensor:
    out: Tensor = made["first"](made["norm"](x))
    return out


def plain_mlp(x: Tensor, made: nn.ModuleDict) -> Tensor:
    out: Tensor = made["second"](F.gelu(made["first"](made["norm"](x))))
    return out


def plain_heads(x: Tensor, made: nn.ModuleDict) -> Tensor:
    return torch.stack(plain_linear(x, made).unflatten(2, (2, 5, 2)).permute(2, 0, 3, 1, 4).unbind(0))


def norm_heads(x: Tensor, made: nn.ModuleDict) -> tuple[Tensor, ...]:
    norm, first = made["norm"], made["first"]
    assert isinstance(norm, nn.LayerNorm) and isinstance(first, nn.Linear)
    return recompute.norm_heads(x, norm, first.weight, first.bias, parts="qv", num_heads=5, scratch=SCRATCH)


def lean_heads(x: Tensor, made: nn.ModuleDict) -> Tensor:
    return torch.stack(norm_heads(x, made))


def lean_mlp(x: Tensor, made: nn.ModuleDict, again: bool = False) -> Tensor:
    norm, first, second = made["norm"], made["first"], made["second"]
    assert isinstance(norm, nn.LayerNorm) and isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    return recompute.norm_mlp(x, norm, first, second, recompute=again, scratch=SCRATCH)


def recomputed_mlp(x: Tensor, made: nn.ModuleDict) -> Tensor:
    return lean_mlp(x, made, again=True)


each_kind = pytest.mark.parametrize(
    ("lean", "plain"),
    [
        (lean_heads, plain_heads),
        (lean_mlp, plain_mlp),
        (recomputed_mlp, plain_mlp),
    ],
    ids=["heads", "mlp", "mlp recomputed"],
)
Function = Callable[[Tensor, nn.ModuleDict], Tensor]


def gradients(
    function: Function, made: nn.ModuleDict, x: Tensor, autocast: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradients of x and of every parameter that wants one."""
    made.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = function(x, made)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    named = {
        name: parameter.grad for name, parameter in made.named_parameters() if parameter.grad is not None
    }
    assert x.grad is not None
    return out, {"x": x.grad, **named}


@each_kind
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_values_and_gradients_are_the_plain_ones(lean: Function, plain: Function, autocast: bool) -> None:
    made, x = parts(), torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    (ours, our_grads), (theirs, their_grads) = (gradients(each, made, x, autocast) for each in (lean, plain))
    assert ours.dtype == theirs.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert torch.equal(ours, theirs)
    assert our_grads.keys() == their_grads.keys()
    for name, grad in their_grads.items():
        assert our_grads[name].dtype == grad.dtype
        torch.testing.assert_close(our_grads[name], grad, rtol=1e-6, atol=1e-6)


@each_kind
def test_a_network_that_is_all_bf16_needs_no_autocast(lean: Function, plain: Function) -> None:
    made, x = parts().bfloat16(), torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1)).bfloat16()
    (ours, our_grads), (theirs, their_grads) = (gradients(each, made, x) for each in (lean, plain))
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(our_grads, their_grads, rtol=0.02, atol=0.02)


@each_kind
@pytest.mark.parametrize("frozen", ["norm", "first"])
def test_frozen_parameters_get_no_gradient_and_the_others_theirs(
    lean: Function, plain: Function, frozen: str
) -> None:
    made, x = parts(), torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(1))
    made[frozen].requires_grad_(False)
    (_, our_grads), (_, their_grads) = (gradients(each, made, x) for each in (lean, plain))
    assert our_grads.keys() == their_grads.keys()
    assert not [name for name in our_grads if name.startswith(frozen)]
    torch.testing.assert_close(our_grads, their_grads)


def test_what_a_pass_recomputes_is_not_saved() -> None:
    made, x = parts(), torch.randn(2, 5, 12, requires_grad=True)

    def kept(function: Function) -> int:
        """Values that autograd saves beside parameters and x itself."""
        known = {tensor.data_ptr() for tensor in [*made.parameters(), x]}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in known:
                saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            function(x, made)
        return sum(saved.values())

    tokens, statistics = 10, 2
    assert kept(lambda x, made: norm_heads(x, made)[0]) == 0
    assert kept(lean_mlp) == tokens * 20
    assert kept(recomputed_mlp) == 0
    assert kept(plain_mlp) == tokens * (statistics + 12 + 20 + 20)


def test_heads_lie_apart_in_training_and_a_part_that_nobody_used_has_no_gradient_of_its_own() -> None:
    made, x = parts(), torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    first, second = norm_heads(x, made)
    assert first.shape == second.shape == (2, 5, 5, 2)
    assert first.transpose(1, 2).is_contiguous(), "what attention returns lies as queries do"
    assert second.is_contiguous()
    second.sum().backward()
    grad = made["first"].get_parameter("weight").grad
    assert grad is not None
    assert not grad[:10].any() and grad[10:].any()


FLOAT = torch.float32


def test_a_slot_is_one_place_that_grows() -> None:
    scratch = Scratch()
    first = scratch("tested", FLOAT, (3, 4))
    assert first.shape == (3, 4)
    assert scratch("tested", FLOAT, (2, 5)).data_ptr() == first.data_ptr()
    assert scratch("tested", FLOAT, (30, 40)).shape == (30, 40)
    larger = scratch("tested", FLOAT, (7,))
    assert larger.untyped_storage().nbytes() == 30 * 40 * 4


def test_slots_types_threads_and_objects_have_places_of_their_own() -> None:
    scratch = Scratch()
    one = scratch("one", FLOAT, (4,)).fill_(1)
    others = [
        scratch("two", FLOAT, (4,)),
        scratch("one", torch.bfloat16, (4,)),
        Scratch()("one", FLOAT, (4,)),
    ]
    with ThreadPoolExecutor(1) as pool:
        others.append(pool.submit(scratch, "one", FLOAT, (4,)).result())
    for other in others:
        other.fill_(2)
    assert one.tolist() == [1, 1, 1, 1]
    assert others[1].dtype == torch.bfloat16


def test_what_is_made_in_inference_mode_can_be_written_outside() -> None:
    scratch = Scratch()
    with torch.inference_mode():
        scratch("one", FLOAT, (4,))
    with torch.device("meta"):  # a device that somebody set is not the scratch's
        assert scratch("one", FLOAT, (8,)).fill_(1).sum() == 8


def test_copies_start_empty_and_are_shared_as_the_original_was() -> None:
    scratch = Scratch()
    first = scratch("one", FLOAT, (1000,))
    pair = [scratch, scratch]
    for copied in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert copied[0] is copied[1] is not scratch
        assert copied[0]("one", FLOAT, (4,)).data_ptr() != first.data_ptr()
    assert len(pickle.dumps(scratch)) < 200
