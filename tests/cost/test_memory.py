"""Memory on paper against what autograd keeps, and against every byte that is alive in a step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from live_bytes import LiveBytes
from torch import Tensor, nn

from videomae2.architecture import architecture_of
from videomae2.chance import torch_generator
from videomae2.cost.activations import Execution
from videomae2.cost.memory import inference_memory, training_memory
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.heads.classify import build_classifier
from videomae2.mask_counts import TokenCounts, count_tokens
from videomae2.masking import draw_split
from videomae2.models import cpu
from videomae2.models.build import build_autoencoder
from videomae2.settings import MaskSettings, ModelSettings
from videomae2.targets import masked_mse, reconstruction_targets, soft_cross_entropy

SMALL = ModelSettings(
    num_frames=16, size=96, patch=16, native_frames=16, native_size=96,
    width=96, depth=3, num_heads=3, decoder_width=48, decoder_heads=3, decoder_depth=2,
)  # fmt: skip
MASKS = {
    "dual": MaskSettings(),
    "unseen": MaskSettings(membership="unseen"),
    "encoder only": MaskSettings(decoder="none"),
}
CLIPS, CLASSES = 2, 5
each_execution = pytest.mark.parametrize(
    ("precision", "checkpointing", "mlps"),
    [
        pytest.param(precision, blocks, mlps, id=f"{precision}-{label}")
        for precision in ("fp32", "bf16")
        for blocks, mlps, label in (
            (False, False, "keeping"),
            (False, True, "mlps"),
            (True, False, "blocks"),
            (True, True, "both"),
        )
    ],
)


def clips(grid: TokenGrid) -> Tensor:
    return torch.randint(0, 256, grid.clip_shape(CLIPS), dtype=torch.uint8, generator=torch_generator(1))


PATHS = {"cpu": cpu.apply, "cuda": cpu.remove}
"""What runs on a device: plain layers keep the same wherever they run."""
each_device = pytest.mark.parametrize("device", PATHS)


def pretraining(
    settings: ModelSettings, mask: MaskSettings, device: str
) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = PATHS[device](build_autoencoder(settings).train())
    grid = model.encoder.config.grid
    frames = clips(grid)

    def loss() -> Tensor:
        split = draw_split(grid, mask, torch.arange(CLIPS))
        prediction = model(frames, split)
        return masked_mse(prediction, reconstruction_targets(frames, grid, split.targets))

    return model, loss


def finetuning(settings: ModelSettings, device: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = PATHS[device](build_classifier(settings, CLASSES).train())
    frames = clips(model.encoder.config.grid)
    return model, lambda: soft_cross_entropy(model(frames), torch.full((CLIPS, CLASSES), 1 / CLASSES))


def kept_bytes(model: nn.Module, loss: Callable[[], Tensor], precision: str) -> int:
    """Bytes of the storages that a forward saves for backward, each once; no parameters and buffers."""
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    enabled = precision == "bf16"
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", enabled=enabled),
    ):
        loss()
    return sum(storage.nbytes() for storage in kept.values())


def peak_bytes(model: nn.Module, loss: Callable[[], Tensor], precision: str) -> int:
    """Most bytes alive in the second step of AdamW, clips not counted."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with LiveBytes() as alive:
        alive.add_module(model)
        for _ in range(2):
            alive.peak = 0
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                value = loss()
            torch.autograd.backward(value)
            del value
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return int(alive.peak)


@each_device
@each_execution
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_pretraining_keeps_what_is_counted(
    mask: MaskSettings, precision: str, checkpointing: bool, mlps: bool, device: str
) -> None:
    settings = replace(SMALL, activation_checkpointing=checkpointing, mlp_checkpointing=mlps)
    network = architecture_of(settings, decoder=True)
    found = training_memory(
        network,
        count_tokens(network.grid, mask),
        Execution(CLIPS, precision, device),
    )
    measured = kept_bytes(*pretraining(settings, mask, device), precision)
    assert found.activations + found.weight_copies == measured


@each_device
@each_execution
@pytest.mark.parametrize("size", [96, 192], ids=["288 tokens", "1152 tokens, fused attention"])
def test_finetuning_keeps_what_is_counted(
    size: int, precision: str, checkpointing: bool, mlps: bool, device: str
) -> None:
    settings = replace(
        SMALL, activation_checkpointing=checkpointing, mlp_checkpointing=mlps, drop_path=0.1, size=size
    )
    network = architecture_of(settings, num_classes=CLASSES)
    counts = TokenCounts(network.grid.num_tokens, 0, 0)
    found = training_memory(network, counts, Execution(CLIPS, precision, device))
    # Drop path keeps a number for each clip and branch.
    assert found.activations + found.weight_copies == pytest.approx(
        kept_bytes(*finetuning(settings, device), precision), rel=1e-4
    )


@each_device
@each_execution
@pytest.mark.parametrize("task", ["dual", "encoder only", "finetune"])
def test_the_peak_of_a_step_is_foreseen(
    task: str, precision: str, checkpointing: bool, mlps: bool, device: str
) -> None:
    settings = ModelSettings(
        name="vit_ti16",
        size=96,
        native_size=96,
        activation_checkpointing=checkpointing,
        mlp_checkpointing=mlps,
    )
    if task == "finetune":
        network, work = architecture_of(settings, num_classes=CLASSES), finetuning(settings, device)
        counts = TokenCounts(network.grid.num_tokens, 0, 0)
    else:
        network, work = architecture_of(settings, decoder=True), pretraining(settings, MASKS[task], device)
        counts = count_tokens(network.grid, MASKS[task])
    found = training_memory(network, counts, Execution(CLIPS, precision, device))
    assert found.peak - found.clips == pytest.approx(peak_bytes(*work, precision), rel=0.1)


@pytest.mark.parametrize("size", [96, 160])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@each_device
def test_the_peak_of_a_forward_is_foreseen(precision: str, size: int, device: str) -> None:
    settings = ModelSettings(name="vit_ti16", size=size, native_size=size)
    network = architecture_of(settings, num_classes=CLASSES)
    model = PATHS[device](cpu.for_inference(build_classifier(settings, CLASSES), precision))
    frames = clips(network.grid)
    with LiveBytes() as alive, torch.no_grad():
        alive.add_module(model)
        model(frames)
    found = inference_memory(
        network, TokenCounts(network.grid.num_tokens, 0, 0), Execution(CLIPS, precision, device=device)
    )
    assert found.peak - found.clips == pytest.approx(alive.peak, rel=0.15)
    assert found.gradients == found.optimizer == found.activations == 0


def test_sharding_spreads_the_state_and_gathers_two_blocks() -> None:
    network = architecture_of(ModelSettings(name="vit_g14"), decoder=True)
    counts = count_tokens(network.grid, MaskSettings())
    alone, ddp, full = (
        training_memory(network, counts, Execution(8, processes=processes, shard=shard))
        for processes, shard in ((1, "none"), (64, "none"), (64, "full"))
    )
    assert (alone.communication, ddp.communication) == (0, alone.gradients)
    assert ddp.parameters == alone.parameters
    assert full.parameters == -(-alone.parameters // 4 // 64) * 4
    assert 2 * 4 * network.encoder.block_parameters < full.communication < 0.1 * alone.parameters
    assert full.activations == alone.activations
    assert full.peak < alone.peak < ddp.peak
    assert full.state == full.parameters + full.gradients + full.optimizer + full.communication + full.buffers


def test_dual_masking_saves_memory_as_the_paper_says() -> None:
    """Table 2 prints 631 M against 328 M for ViT-B, without a unit."""
    network = architecture_of(ModelSettings(name="vit_b16"), decoder=True)
    none, dual = (
        training_memory(network, count_tokens(network.grid, MASKS[name]), Execution(32)).activations
        for name in ("encoder only", "dual")
    )
    assert dual < 0.75 * none


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "fp16"}, "precision: expected fp32 or bf16, got 'fp16'"),
        ({"shard": "zero1"}, "shard: expected none or full, got 'zero1'"),
        ({"processes": 0}, "processes: expected at least 1, got 0"),
    ],
)
def test_an_execution_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Execution(**{"clips": 1, **wrong})
