"""Pre-training as released: split, encoder output, prediction, target, loss and gradients."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from videomae2.masking import split_from_masks
from videomae2.records import TokenSplit
from videomae2.targets import masked_mse, reconstruction_targets

from . import released


def split_of(tensors: dict[str, Tensor]) -> TokenSplit:
    hidden = tensors["encoder_mask"].bool()
    dropped = tensors["decoder_mask"].bool() if "decoder_mask" in tensors else None
    return split_from_masks(hidden, dropped)


@pytest.mark.parametrize("name", released.PRETRAIN)
def test_pretraining_equals_the_released_code(golden: Path, name: str) -> None:
    config, tensors, weights = released.read(golden / f"{name}.safetensors")
    model, frames, split = released.autoencoder(config, weights), released.frames(tensors), split_of(tensors)
    grid = model.encoder.config.grid

    counted = torch.zeros_like(tensors["loss_weight"]).scatter(1, split.scored, 1)
    assert torch.equal(counted, tensors["loss_weight"])
    assert released.error(model.encoder(frames, split.visible), tensors["encoder_output"]) < 1e-5
    assert released.error(model(frames, split, only_scored=False), tensors["prediction"]) < 1e-5
    assert released.error(reconstruction_targets(frames, grid, split.decoded), tensors["target"]) < 1e-5

    prediction = model(frames, split)
    loss = masked_mse(prediction, reconstruction_targets(frames, grid, split.targets))
    assert released.error(loss.reshape(1), tensors["loss"]) < 1e-5
    loss.backward()
    assert released.error(released.global_norm(model), tensors["grad_norm"]) < 1e-4
    for parameter, recorded in (
        (model.encoder.patch_embed.proj.weight, "grad_patch_embed"),
        (model.mask_token, "grad_mask_token"),
    ):
        assert parameter.grad is not None
        assert released.error(parameter.grad, tensors[recorded]) < 1e-4


@pytest.mark.parametrize("name", released.PRETRAIN)
def test_scored_predictions_are_those_of_the_whole_decoder(golden: Path, name: str) -> None:
    """Leaving the unscored tokens out of the last block changes nothing in those that remain."""
    config, tensors, weights = released.read(golden / f"{name}.safetensors")
    model, frames, split = released.autoencoder(config, weights), released.frames(tensors), split_of(tensors)
    whole = model(frames, split, only_scored=False)
    wanted = whole.gather(1, split.scored[..., None].expand(-1, -1, whole.shape[-1]))
    assert released.error(model(frames, split), wanted) < 1e-5
