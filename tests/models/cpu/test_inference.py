"""Networks for inference alone: less to hold, nothing cast at each forward, the same bits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils._python_dispatch import TorchDispatchMode

from videomae2.models import cpu
from videomae2.models.cpu import for_inference

from ...small_networks import CLIP, TINY, autoencoder, classifier


class Casts(TorchDispatchMode):
    """Counts the numbers that are cast to bf16 inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.numbers += args[0].numel()
        return func(*args, **(kwargs or {}))


def forward(model: nn.Module, autocast: bool) -> tuple[Tensor, int]:
    with Casts() as casts, torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return model(CLIP), casts.numbers


@pytest.mark.parametrize("path", [cpu.apply, cpu.remove], ids=["cpu", "plain"])
@pytest.mark.parametrize(
    "changes", [{}, {"cosine_attention": True, "layer_scale": 0.1}], ids=["plain", "cosine"]
)
def test_outside_autocast_it_gives_the_bits_of_autocast(
    path: Callable[[nn.Module], nn.Module], changes: dict[str, Any]
) -> None:
    settings = replace(TINY, **changes)
    for model in (classifier(settings=settings), encoder := classifier(settings=settings).encoder):
        path(model)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected = model(CLIP)
        path(for_inference(model, "bf16"))
        for grads in (False, True):
            with torch.set_grad_enabled(grads):
                ours = model(CLIP)
            close = 0 if (not grads and path is cpu.apply) or path is cpu.remove else 0.02
            torch.testing.assert_close(ours, expected, rtol=close, atol=close)
    assert encoder(CLIP).dtype == torch.float32


def test_each_part_can_be_called_by_itself() -> None:
    model = for_inference(classifier(), "bf16")
    with torch.no_grad():
        assert torch.equal(model.head(model.features(CLIP)), model(CLIP))
        tokens = model.encoder.patch_embed(CLIP)
        assert tokens.dtype == torch.bfloat16
        assert model.encoder.blocks[0](tokens.float()).dtype == torch.float32


def test_weights_are_not_cast_again() -> None:
    model = cpu.apply(classifier())
    matrices = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    before, after = forward(model, autocast=True)[1], forward(for_inference(model, "bf16"), autocast=False)[1]
    assert before - after >= matrices


def test_only_linear_layers_change_and_nothing_in_fp32() -> None:
    model = autoencoder()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for_inference(model.train(), "fp32")
    assert not model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for_inference(model, "bf16")
    halved = {name for name, value in model.state_dict().items() if value.dtype == torch.bfloat16}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {name.rpartition(".")[0] for name in halved} == linear


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def test_a_linear_layer_of_another_kind_needs_no_autocast_either() -> None:
    changed = [classifier(), classifier()]
    for model in changed:
        block: Any = model.encoder.blocks[0]
        parametrize.register_parametrization(block.mlp.fc2, "weight", Halved())
        prune.l1_unstructured(block.attn.qkv, "weight", 0.2)
    exact, close = changed[0], for_inference(for_inference(changed[1], "bf16"), "bf16")
    with torch.no_grad():
        torch.testing.assert_close(close(CLIP).float(), exact(CLIP), rtol=0.1, atol=0.1)
