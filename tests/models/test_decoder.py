"""The decoder: predictions where they are scored, the same as if all had been made."""

from typing import Any

import pytest
import torch

from videomae2.settings import MaskSettings

from .. import tiny


@pytest.mark.parametrize("decoder", ["none", "running_cell", "random", "frame"])
@pytest.mark.parametrize("membership", ["released", "unseen"])
@pytest.mark.parametrize("scored", ["unseen", "all"])
def test_scored_predictions_are_those_of_all(decoder: Any, membership: Any, scored: Any) -> None:
    mask = MaskSettings(encoder_ratio=0.75, decoder=decoder, membership=membership, scored=scored)
    model, clip, split = tiny.network(), tiny.frames(), tiny.split(mask=mask)
    whole, part = model(clip, split, only_scored=False), model(clip, split)
    assert whole.shape[:2] == split.decoded.shape and part.shape[:2] == split.scored.shape
    assert part.shape[2] == 384
    torch.testing.assert_close(part, whole.gather(1, split.scored[..., None].expand(-1, -1, 384)))


def test_seen_mask_tokens_take_part_under_released_membership_only() -> None:
    """The two memberships score the same tokens, but the extra mask tokens are attended to."""
    model, clip = tiny.network(), tiny.frames()
    released = tiny.split()
    unseen = tiny.split(mask=MaskSettings(encoder_ratio=0.75, membership="unseen"))
    assert torch.equal(released.targets, unseen.targets)
    assert released.decoded.shape[1] > unseen.decoded.shape[1]
    first, second = model(clip, released), model(clip, unseen)
    assert first.shape == second.shape and not torch.allclose(first, second)


def test_recomputed_activations_give_the_same_gradients() -> None:
    grads = []
    for recompute in (False, True):
        model = tiny.network(activation_checkpointing=recompute)
        assert model.decoder.config.activation_checkpointing is recompute
        model(tiny.frames(), tiny.split()).square().mean().backward()
        grads.append(tiny.gradients(model.decoder))
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])
