"""Costs on paper equal the built networks, torch's own count of matmuls, and the published figures."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videomae2.architecture import SIZES, architecture_of
from videomae2.chance import torch_generator
from videomae2.cost.macs import (
    Workload,
    computed_macs,
    count_parameters,
    device_hours,
    published_macs,
    recomputed_macs,
    training_macs,
)
from videomae2.errors import UserError
from videomae2.heads.classify import build_classifier
from videomae2.mask_counts import TokenCounts, count_tokens
from videomae2.masking import draw_split
from videomae2.models.build import build_autoencoder
from videomae2.settings import MaskSettings, ModelSettings
from videomae2.targets import masked_mse, reconstruction_targets

NONE = MaskSettings(decoder="none")
SMALL = ModelSettings(
    num_frames=8, size=32, patch=8, native_frames=8, native_size=32,
    width=48, depth=3, num_heads=3, decoder_width=24, decoder_heads=3, decoder_depth=2,
)  # fmt: skip


def running_cell(ratio: float) -> MaskSettings:
    return MaskSettings(decoder_ratio=ratio)


def pretraining_macs(name: str, mask: MaskSettings) -> float:
    network = architecture_of(ModelSettings(name=name), decoder=True)
    return published_macs(network, count_tokens(network.grid, mask)).total / 1e9


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_those_of_the_networks(name: str) -> None:
    settings = ModelSettings(name=name)
    autoencoder = build_autoencoder(settings, device="meta")
    classifier = build_classifier(settings, 400, device="meta")
    counted = count_parameters(architecture_of(settings, decoder=True))
    assert counted.encoder == sum(p.numel() for p in autoencoder.encoder.parameters())
    assert counted.total == sum(p.numel() for p in autoencoder.parameters())
    classified = count_parameters(architecture_of(settings, num_classes=400))
    assert classified.encoder == sum(p.numel() for p in classifier.encoder.parameters())
    assert classified.total == sum(p.numel() for p in classifier.parameters())


def test_scales_and_learned_positions_are_parameters_too() -> None:
    settings = replace(SMALL, layer_scale=0.1, cosine_attention=True, positions="learned")
    counted = count_parameters(architecture_of(settings, decoder=True))
    built = build_autoencoder(settings, device="meta")
    assert counted.encoder == sum(p.numel() for p in built.encoder.parameters())
    assert counted.total == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize(
    ("name", "mask", "printed"),
    [
        ("vit_b16", NONE, 35.48),  # paper, table 1
        ("vit_b16", running_cell(0.25), 31.63),
        ("vit_b16", running_cell(0.5), 25.87),
        ("vit_b16", running_cell(0.75), 21.06),
        ("vit_b16", MaskSettings(decoder="frame"), 25.87),
        ("vit_b16", MaskSettings(encoder="random", decoder="random"), 25.87),
        ("vit_g14", NONE, 263.93),  # paper, table 2
        ("vit_g14", running_cell(0.5), 241.61),
    ],
)
def test_pretraining_costs_what_the_paper_prints(name: str, mask: MaskSettings, printed: float) -> None:
    assert pretraining_macs(name, mask) == pytest.approx(printed, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "printed"), [("vit_b16", 180), ("vit_l16", 597), ("vit_h16", 1192), ("vit_g14", 2543)]
)
def test_inference_costs_what_the_paper_prints(name: str, printed: float) -> None:
    network = architecture_of(ModelSettings(name=name), num_classes=400)
    counts = TokenCounts(network.grid.num_tokens, 0, 0)
    assert published_macs(network, counts).total / 1e9 == pytest.approx(printed, rel=2e-3)
    assert published_macs(network, counts) == computed_macs(network, counts)


@pytest.mark.parametrize(
    "mask", [MaskSettings(), MaskSettings(membership="unseen"), NONE], ids=["released", "unseen", "none"]
)
@pytest.mark.parametrize(
    ("checkpointing", "mlps"),
    [(False, False), (False, True), (True, False)],
    ids=["keeping", "mlps", "blocks"],
)
def test_computed_macs_are_those_torch_counts(mask: MaskSettings, checkpointing: bool, mlps: bool) -> None:
    settings = replace(SMALL, activation_checkpointing=checkpointing, mlp_checkpointing=mlps)
    model, network = build_autoencoder(settings).train(), architecture_of(settings, decoder=True)
    counts = count_tokens(network.grid, mask)
    frames = torch.randint(
        0, 256, network.grid.clip_shape(2), dtype=torch.uint8, generator=torch_generator(1)
    )
    split = draw_split(network.grid, mask, torch.arange(2))
    # The counter knows no fused attention of a CPU, but the matmuls that it stands for.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            prediction = model(frames, split)
            loss = masked_mse(prediction, reconstruction_targets(frames, network.grid, split.targets))
        assert forward.get_total_flops() == 2 * 2 * computed_macs(network, counts).total
        with FlopCounterMode(display=False) as backward:
            torch.autograd.backward(loss)
    total = forward.get_total_flops() + backward.get_total_flops()
    # Recomputation may stop early, after what is needed last: the second MLP layer is not.
    told = training_macs(network, counts) + recomputed_macs(network, counts)
    assert total == pytest.approx(2 * 2 * told, rel=0.08 if checkpointing else 0)


def test_a_classifier_trains_with_three_times_its_forward() -> None:
    network = architecture_of(replace(SMALL, activation_checkpointing=True), num_classes=7)
    counts = TokenCounts(network.grid.num_tokens, 0, 0)
    forward, embedding = computed_macs(network, counts).total, network.grid.num_tokens * network.embed_matrix
    assert training_macs(network, counts) == 3 * forward - embedding
    assert recomputed_macs(network, counts) == forward - embedding - network.output_matrix
    assert recomputed_macs(architecture_of(SMALL, num_classes=7), counts) == 0


def test_steps_of_the_papers_pretraining() -> None:
    work = Workload(videos=1_348_000, epochs=300, views=4, batch=32, processes=64)
    assert work.clips_per_forward * work.processes == 8192
    assert work.training_steps() == 197_400
    assert work.training_clips() == 197_400 * 8192


def test_inference_sees_every_video_and_training_whole_batches() -> None:
    work = Workload(videos=10, epochs=2, views=3, batch=4)
    assert (work.training_steps(), work.training_clips()) == (4, 48)
    assert (work.inference_steps(), work.inference_clips()) == (6, 60)
    assert Workload(videos=3, epochs=2, views=1, batch=4).training_steps() == 2


def test_hours_follow_from_the_rate() -> None:
    assert device_hours(1800 * 10**12, tflops=2.0, utilisation=0.5) == pytest.approx(1.0)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(UserError, match="batch: expected a count above 0, got 0"):
        Workload(videos=1, epochs=1, views=1, batch=0)
    with pytest.raises(UserError, match="utilisation: expected a share above 0 and up to 1, got 40"):
        device_hours(1, tflops=312, utilisation=40)
    with pytest.raises(UserError, match="tflops: expected a rate above 0, got 0"):
        device_hours(1, tflops=0, utilisation=0.4)
