"""The networks are ordinary PyTorch modules: whatever people do to modules works, also after `cpu.apply`.

Each test runs on the real pre-training network or classifier, as it is built and again with the fast CPU path
applied, which must step aside wherever a module is watched, replaced, traced or transformed.
"""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from videomae2 import chance
from videomae2.architecture import architecture_of
from videomae2.cost.macs import computed_macs
from videomae2.heads.classify import Classifier, build_classifier
from videomae2.mask_counts import TokenCounts, count_tokens
from videomae2.models import cpu
from videomae2.targets import masked_mse, reconstruction_targets

from .. import tiny

CLASSES = 5
TARGETS = ["qkv", "proj", "fc1", "fc2"]
Run = Callable[..., Tensor]


def as_built(network: nn.Module) -> nn.Module:
    return network


each_path = pytest.mark.parametrize("path", [as_built, cpu.apply], ids=["plain", "cpu"])
each_task = pytest.mark.parametrize("task", ["pretrain", "classify"])
Path = Callable[[nn.Module], nn.Module]


def made(task: str, path: Path = as_built, **changes: Any) -> tuple[Any, Run]:
    """A network, and a function that gives the loss of what it is called with: that network or its copy."""
    frames = tiny.frames()
    if task == "pretrain":
        split = tiny.split()
        network: Any = tiny.network(**changes)
        target = reconstruction_targets(frames, network.encoder.config.grid, split.targets)
        return path(network), lambda called: masked_mse(called(frames, split), target)
    network = build_classifier(tiny.settings(**changes), CLASSES, 1.0, chance.torch_generator(0))
    labels = torch.tensor([1, 3])
    return path(network), lambda called: nn.functional.cross_entropy(called(frames), labels)


def called_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Every module that a forward calls: a list of modules is not called itself."""
    return {name: module for name, module in network.named_modules() if not isinstance(module, nn.ModuleList)}


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "training": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@each_path
@each_task
@pytest.mark.parametrize("mode", MODES)
def test_hooks_on_every_module_fire(task: str, path: Path, mode: str) -> None:
    network, loss = made(task, path)
    network.train(mode == "training")
    fired: set[str] = set()
    for name, module in called_modules(network).items():
        module.register_forward_pre_hook(lambda *_, name=name: fired.add(f"before {name}"))
        module.register_forward_hook(lambda *_, name=name: fired.add(f"after {name}"))
    with MODES[mode]():
        loss(network)
    assert fired == {f"{when} {name}" for name in called_modules(network) for when in ("before", "after")}


@each_path
@each_task
def test_a_hook_on_one_module_fires_wherever_that_module_is(task: str, path: Path) -> None:
    for name in called_modules(made(task)[0]):
        network, loss = made(task, path)
        fired: list[nn.Module] = []
        network.get_submodule(name).register_forward_hook(
            lambda module, *_, fired=fired: fired.append(module)
        )
        with torch.no_grad():
            loss(network)
        assert fired, name


@each_path
@each_task
def test_backward_hooks_on_every_module_fire(task: str, path: Path) -> None:
    network, loss = made(task, path)
    fired: set[str] = set()
    for name, module in called_modules(network).items():
        module.register_full_backward_hook(lambda *_, name=name: fired.add(name))
    loss(network).backward()
    assert fired == set(called_modules(network))


@each_path
def test_hooks_of_all_modules_fire(path: Path) -> None:
    network, loss = made("classify", path)
    called: set[nn.Module] = set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.add(module))
    try:
        loss(network)
    finally:
        handle.remove()
    assert called >= set(called_modules(network).values())


@each_path
@each_task
def test_captured_tensors_keep_their_values(task: str, path: Path) -> None:
    for only in (None, "blocks.0", "blocks.1"):  # a hook on a block alone leaves the fast path inside it
        network, loss = made(task, path, drop_path=0.3, layer_scale=0.1)
        held: list[tuple[str, Tensor, Tensor]] = []

        def capture(name: str, given: Any, out: Tensor, held: list[Any] = held) -> None:
            held.extend(
                (name, tensor, tensor.detach().clone())
                for tensor in (*given, out)
                if isinstance(tensor, Tensor)
            )

        for name, module in called_modules(network).items():
            if only is None or name.endswith(only):
                module.register_forward_hook(lambda _, given, out, name=name: capture(name, given, out))
        torch.manual_seed(0)
        loss(network).backward()
        with torch.no_grad():
            loss(network)
        assert held
        for name, tensor, value in held:
            assert torch.equal(tensor, value), name


class HandWritten(nn.Module):
    """base(x) + B(A(x)), as a low-rank adapter that somebody writes in an afternoon."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


def by_hand(network: nn.Module) -> None:
    network.requires_grad_(False)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in TARGETS:
            network.set_submodule(name, HandWritten(module))


def by_peft(network: nn.Module) -> None:
    network.requires_grad_(False)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS), network)


@each_path
@each_task
@pytest.mark.parametrize("wrap", [by_hand, by_peft])
def test_adapters_train_and_training_and_evaluation_agree(
    task: str, path: Path, wrap: Callable[[nn.Module], None]
) -> None:
    network, loss = made(task, path)
    torch.manual_seed(0)
    wrap(network)
    adapters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert adapters and all("up" in name or "down" in name or "lora" in name for name in adapters)
    optimizer = torch.optim.AdamW(adapters.values(), lr=1e-2)
    losses = []
    for _ in range(4):
        value = loss(network.train())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < losses[0]
    missing = [
        name for name, parameter in adapters.items() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not missing
    with torch.no_grad():
        torch.testing.assert_close(loss(network.train()), loss(network.eval()), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss(network.train()), loss(network.eval()), rtol=1e-6, atol=1e-6)


@each_path
@each_task
def test_a_fake_forward_leaves_nothing_fake_behind(task: str, path: Path) -> None:
    network, loss = made(task)
    expected = loss(network)
    network, loss = made(task, path)
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss(network)
        with torch.no_grad():
            loss(network)
    torch.testing.assert_close(loss(network), expected)
    with torch.no_grad():
        torch.testing.assert_close(loss(network), expected)


@each_path
@each_task
def test_dynamic_quantization(task: str, path: Path) -> None:
    network, loss = made(task, path)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(network.eval(), {nn.Linear}, dtype=torch.qint8)
        assert any("quantized" in type(module).__module__ for module in quantized.modules())
        exact, close = loss(network), loss(quantized)
    assert not torch.equal(exact, close)
    torch.testing.assert_close(close, exact, rtol=0.1, atol=0.1)


@each_path
@pytest.mark.parametrize("which", ["attn.qkv", "mlp.fc1"])
def test_pruning_forward_and_backward(path: Path, which: str) -> None:
    (network, loss), (reference, _) = made("classify", path), made("classify")
    module = network.get_submodule(f"encoder.blocks.1.{which}")
    prune.l1_unstructured(module, "weight", amount=0.5)
    with torch.no_grad():
        reference.get_submodule(f"encoder.blocks.1.{which}").weight.mul_(module.weight_mask)
    value = loss(network)
    value.backward()
    torch.testing.assert_close(value, loss(reference))
    grad = module.weight_orig.grad
    assert bool((grad[module.weight_mask == 0] == 0).all()) and bool(grad.any())


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


@each_path
def test_parametrized_weights(path: Path) -> None:
    (network, loss), (reference, _) = made("classify", path), made("classify")
    for name in ("attn.qkv", "attn.proj", "mlp.fc2", "norm1"):
        parametrize.register_parametrization(
            network.get_submodule(f"encoder.blocks.0.{name}"), "weight", Halved()
        )
        with torch.no_grad():
            reference.get_submodule(f"encoder.blocks.0.{name}").weight.div_(2)
    value = loss(network)
    value.backward()
    torch.testing.assert_close(value, loss(reference))
    original = network.encoder.blocks[0].attn.qkv.parametrizations.weight.original
    assert bool(original.grad.any())


@each_path
@each_task
def test_functional_gradients_are_those_of_autograd(task: str, path: Path) -> None:
    network, loss = made(task, path)
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def functional(values: dict[str, Tensor]) -> Tensor:
        return loss(lambda *given: torch.func.functional_call(network, values, given))

    grads = torch.func.grad(functional)(parameters)
    loss(network).backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, msg=name)


@each_path
def test_forward_mode_derivatives(path: Path) -> None:
    """The functions of the fast path have none."""
    network, loss = made("classify", path)
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    tangents = {name: torch.ones_like(value) for name, value in parameters.items()}

    def functional(values: dict[str, Tensor]) -> Tensor:
        return loss(lambda *given: torch.func.functional_call(network, values, given))

    with sdpa_kernel(SDPBackend.MATH):
        forward_mode = torch.func.jvp(functional, (parameters,), (tangents,))[1]
    grads = torch.func.grad(functional)(parameters)
    torch.testing.assert_close(forward_mode, sum(grad.sum() for grad in grads.values()), rtol=1e-3, atol=1e-4)


@each_path
@each_task
def test_copies_and_pickles_are_networks_of_their_own(task: str, path: Path) -> None:
    network, loss = made(task, path)
    expected = loss(network)  # whatever the network keeps for itself is there before it is copied
    saved = io.BytesIO()
    torch.save(network, saved)
    saved.seek(0)
    copies = (
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        torch.load(saved, weights_only=False),
    )
    plain = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    assert len(saved.getvalue()) < 2 * plain + 2**18
    for each in copies:
        assert type(each) is type(network)
        assert torch.equal(loss(each), expected)
        with torch.no_grad():
            for parameter in each.parameters():
                parameter.zero_()
    assert torch.equal(loss(network), expected)


@each_path
@each_task
@pytest.mark.parametrize("training", [True, False])
def test_four_threads_give_what_one_gives(task: str, path: Path, training: bool) -> None:
    network, loss = made(task, path)

    def work(shift: int) -> list[Tensor]:
        shifted = [parameter for parameter in network.parameters() if parameter.requires_grad]
        values = []
        for _ in range(4):
            with torch.set_grad_enabled(training):
                value = loss(lambda frames, *split: network((frames.float() / 255 + shift / 10) / 2, *split))
            values += [value.detach(), *(torch.autograd.grad(value, shifted) if training else ())]
        return values

    expected = [work(shift) for shift in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@each_path
@each_task
def test_the_flop_counter_counts_what_cost_says(task: str, path: Path) -> None:
    network, loss = made(task, path)
    head = {"decoder": True} if task == "pretrain" else {"num_classes": CLASSES}
    described = architecture_of(tiny.settings(), **head)
    whole = TokenCounts(described.grid.num_tokens, 0, 0)
    counts = count_tokens(described.grid, tiny.MASK) if task == "pretrain" else whole
    # The counter knows no fused attention of a CPU, but the matmuls that it stands for.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        loss(network)
    assert counter.get_total_flops() == 2 * 2 * computed_macs(described, counts).total
    by_module = counter.get_flop_counts()
    assert any(name.endswith("fc1") for name in by_module)


def test_a_classifier_is_one_of_ours() -> None:
    assert isinstance(made("classify")[0], Classifier)
