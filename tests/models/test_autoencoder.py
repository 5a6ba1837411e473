"""The whole autoencoder: no leak between clips, images as one-frame clips, and it learns."""

from typing import Any

import pytest
import torch

from videomae2.architecture import token_grid
from videomae2.models.build import build_autoencoder
from videomae2.settings import MaskSettings
from videomae2.targets import masked_mse, reconstruction_targets

from .. import tiny

IMAGE = {"num_frames": 1, "tubelet": 1, "native_frames": 1}
IMAGE_MASK = MaskSettings(encoder="random", encoder_ratio=0.75, decoder="none")


@pytest.mark.parametrize("membership", ["released", "unseen"])
def test_one_clip_never_changes_another_clips_predictions(membership: Any) -> None:
    model, split, clip = (
        tiny.network(),
        tiny.split(mask=MaskSettings(encoder_ratio=0.75, membership=membership)),
        tiny.frames(),
    )
    changed = torch.cat((255 - clip[:1], clip[1:]))
    before, after = model(clip, split), model(changed, split)
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])


def test_no_gradient_flows_between_clips() -> None:
    model, split = tiny.network(), tiny.split()
    clip = (tiny.frames().float() / 255).requires_grad_()
    model(clip, split)[0].square().sum().backward()
    assert clip.grad is not None
    assert float(clip.grad[0].abs().sum()) > 0
    assert float(clip.grad[1].abs().sum()) == 0


def test_scored_tokens_are_predicted_blind() -> None:
    model, split = tiny.network(), tiny.split()
    clip = (tiny.frames().float() / 255).requires_grad_()
    model(clip, split).square().sum().backward()
    assert clip.grad is not None
    seen = torch.zeros(2, 64, dtype=torch.bool).scatter_(1, split.visible, True)
    assert not bool(seen.gather(1, split.targets).any())
    reached = clip.grad.abs().sum(2).view(2, 4, 2, 4, 8, 4, 8).sum((2, 4, 6)).flatten(1) > 0
    assert torch.equal(reached, seen)


@pytest.mark.parametrize(
    "changes", [{}, {"cosine_attention": True, "layer_scale": 0.1, "positions": "learned"}, IMAGE], ids=str
)
def test_every_parameter_gets_a_gradient(changes: Any) -> None:
    mask = IMAGE_MASK if changes == IMAGE else tiny.MASK
    model = tiny.network(**changes)
    model(tiny.frames(**changes), tiny.split(mask=mask, **changes)).square().mean().backward()
    for name, grad in tiny.gradients(model).items():
        assert bool(grad.isfinite().all()) and float(grad.abs().sum()) > 0, name


@pytest.mark.parametrize(
    "changes", [{}, IMAGE, {"num_frames": 12, "tubelet": 3, "native_frames": 12}], ids=str
)
def test_it_learns_to_reconstruct_one_batch(changes: Any) -> None:
    """One frame with tubelet 1 is the image autoencoder; three frames a tubelet are as good as two."""
    mask = IMAGE_MASK if changes == IMAGE else tiny.MASK
    model, split, clip = tiny.network(**changes), tiny.split(mask=mask, **changes), tiny.frames(**changes)
    clip = clip.float().mean((3, 4), keepdim=True).expand_as(clip) / 255 + torch.linspace(
        -0.2, 0.2, 32
    )  # smooth
    target = reconstruction_targets(clip, token_grid(tiny.settings(**changes)), split.targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = masked_mse(model(clip, split), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_the_decoder_can_run_in_float32_under_autocast() -> None:
    split, clip, predictions = tiny.split(), tiny.frames(), []
    for decoder_fp32 in (False, True):
        model = build_autoencoder(tiny.settings(), decoder_fp32=decoder_fp32)
        with torch.autocast("cpu", torch.bfloat16):
            predictions.append(model(clip, split))
    half, full = predictions
    assert half.dtype == torch.bfloat16 and full.dtype == torch.float32
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model.encoder(clip, split.visible)
    alone = model.decoder(model.encoder_to_decoder(encoded.float()), model.mask_token, split)
    assert torch.equal(full, alone), "the encoder alone is in bf16"
