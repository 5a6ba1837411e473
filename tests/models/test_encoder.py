"""The encoder: only what is visible counts, on any grid, with recomputed activations and drop path."""

from typing import Any

import pytest
import torch

from videomae2.errors import UserError
from videomae2.models.build import build_encoder

from .. import tiny


def test_hidden_pixels_never_change_the_encoder() -> None:
    model, split, clip = tiny.network(), tiny.split(), tiny.frames()
    before = model.encoder(clip, split.visible)
    hidden = torch.ones(2, 64, dtype=torch.bool).scatter_(1, split.visible, False)
    pixels = hidden.view(2, 4, 4, 4).repeat_interleave(2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = torch.where(pixels[:, :, None], 255 - clip, clip)
    assert not torch.equal(changed, clip)
    assert torch.equal(model.encoder(changed, split.visible), before)


def test_all_tokens_in_order_are_all_tokens() -> None:
    encoder, clip = build_encoder(tiny.settings()), tiny.frames()
    torch.testing.assert_close(encoder(clip), encoder(clip, torch.arange(64).expand(2, -1)))


def test_without_the_final_norm_the_trunk_is_left() -> None:
    clip = tiny.frames()
    normed, trunk = build_encoder(tiny.settings()), build_encoder(tiny.settings(), final_norm=False)
    assert not any(name.startswith("norm.") for name in trunk.state_dict())
    torch.testing.assert_close(normed.norm(trunk(clip)), normed(clip))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_frames": 16},
        {"num_frames": 1, "tubelet": 1},
        {"num_frames": 9, "tubelet": 3, "native_frames": 9},
        {"size": 48},
        {"native_frames": 16, "native_size": 224},
        {"patch": 16},
    ],
    ids=str,
)
def test_any_grid_that_divides(changes: Any) -> None:
    clip = tiny.frames(1, **changes)
    encoder = build_encoder(tiny.settings(**changes))
    features = encoder(clip)
    assert features.shape == (1, encoder.config.grid.num_tokens, 48)
    assert bool(features.isfinite().all())


def test_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected clips \[B, 8, 3, 32, 32\]"):
        build_encoder(tiny.settings())(tiny.frames(size=48))


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
@pytest.mark.parametrize("what", ["activation_checkpointing", "mlp_checkpointing"])
def test_recomputed_activations_give_the_same_gradients(what: Any, drop_path: Any) -> None:
    grads = []
    for recompute in (False, True):
        model = tiny.network(drop_path=drop_path, depth=3, **{what: recompute})
        torch.manual_seed(0)
        model(tiny.frames(), tiny.split()).square().mean().backward()
        grads.append(tiny.gradients(model))
    for name, grad in grads[0].items():
        assert torch.equal(grads[1][name], grad), name


def test_drop_path_rises_linearly_with_depth() -> None:
    encoder: Any = build_encoder(tiny.settings(depth=5, drop_path=0.2))
    assert [block.drop_path.rate for block in encoder.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    alone: Any = build_encoder(tiny.settings(depth=1, drop_path=0.2)).blocks[0]
    assert alone.drop_path.rate == 0


def test_bf16_autocast_is_close_to_float32() -> None:
    encoder, clip = build_encoder(tiny.settings()), tiny.frames()
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(clip)
    torch.testing.assert_close(half.float(), encoder(clip), rtol=0.1, atol=0.1)
