"""Networks for inference alone: less to hold, nothing cast at each forward, the same bits."""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from videomae2.models.inference import for_inference

from ..small_networks import CLIP, autoencoder, classifier


class Casts(TorchDispatchMode):
    """Counts the numbers that are cast to bf16 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.numbers += args[0].numel()
        return func(*args, **(kwargs or {}))


def forward(model: nn.Module) -> tuple[Tensor, int]:
    with Casts() as casts, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model(CLIP), casts.numbers


def test_bf16_weights_give_the_same_bits_and_are_not_cast_again() -> None:
    model = classifier()
    matrices = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    (before, casts_before), (after, casts_after) = forward(model), forward(for_inference(model, "bf16"))
    assert torch.equal(before, after)
    assert casts_before - casts_after >= matrices


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
