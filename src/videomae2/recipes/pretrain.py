"""Pre-training: masked autoencoding of unlabelled video with dual masking (paper 3.2, 4.1)."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videomae2 import chance
from videomae2.engine import parallel
from videomae2.errors import UserError
from videomae2.labels import Unlabelled
from videomae2.masking import count_tokens, draw_split
from videomae2.models.autoencoder import Autoencoder
from videomae2.models.build import build_autoencoder
from videomae2.models.layers import drop_by_sample
from videomae2.recipes.feed import EvaluationFeed, Prepared, Recipe, TrainingFeed, held_out_feed
from videomae2.recipes.weights import About, load_pretraining, sampling_of
from videomae2.records import Batch, StepOutput
from videomae2.settings import MaskSettings, PretrainSettings, TargetSettings
from videomae2.targets import masked_mse, reconstruction_targets


class Pretraining:
    """The task: mask the tokens, encode the visible ones, predict hidden ones, mean squared error.

    Masks follow from (seed, epoch, row, view), so they are the same for any number of workers or world size.
    `held_out` are the batches of an evaluation; None for a run that has none.
    """

    network: Autoencoder

    def __init__(
        self,
        network: Autoencoder,
        mask: MaskSettings,
        target: TargetSettings,
        seed: int = 0,
        held_out: EvaluationFeed | Iterable[Batch[Any]] | None = None,
    ) -> None:
        self.network = network
        self.grid = network.encoder.config.grid
        self.mask, self.target = mask, target
        self.seed = seed
        self.held_out = held_out
        count_tokens(self.grid, mask)  # refuses, before training, a mask that does not fit the grid

    def step(self, network: nn.Module, batch: Batch[Any], _step: int) -> StepOutput:
        """Compute the loss of a batch, with masks drawn for its epoch."""
        # By epoch and not by step: a step of another batch size would draw other masks for the same clip.
        key = chance.key(self.seed, "drop path", batch.epoch)
        drop_by_sample(network, chance.keys(key, batch.row, batch.view))
        return StepOutput(self.loss(network, batch, chance.key(self.seed, "mask", batch.epoch)))

    def loss(self, network: nn.Module, batch: Batch[Any], mask_key: int) -> Float[Tensor, ""]:
        """Mean squared error over the scored cubes; masks follow from `mask_key` and each row and view."""
        # Targets come after the split and only for the scored cubes: with the paper's decoder mask that is at
        # most half of the clip.
        split = draw_split(self.grid, self.mask, chance.keys(mask_key, batch.row, batch.view))
        prediction = network(batch.frames, split)
        target = reconstruction_targets(batch.frames, self.grid, split.targets, self.target.normalize)
        return masked_mse(prediction, target)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Mean loss over every held-out clip: {"loss": mean}. UserError where no video could be read."""
        # The same masks at every evaluation, so that losses differ by the weights alone.
        device = next(network.parameters()).device
        mask_key = chance.key(self.seed, "validation mask")
        total = torch.zeros(2, dtype=torch.float64)
        # A batch in which no video could be read has no clips, and a mean over none would be NaN.
        batches = (batch for batch in self.held_out or () if len(batch))
        for batch, counts in parallel.in_step(batches, network, self._blank()):
            loss = self.loss(network, batch.to(device), mask_key)
            if counts:
                total += torch.tensor([float(loss) * len(batch), len(batch)], dtype=torch.float64)
        # Sum and count are averaged over the ranks and then divided: ranks hold unequal numbers of clips, and
        # a mean of their means would weigh those clips unequally.
        summed, clips = parallel.mean(total.to(device)).tolist()
        if clips == 0:
            raise UserError(
                "expected validation videos, got none that could be read; videomae2 data check names the "
                "broken ones and why"
            )
        return {"loss": summed / clips}

    def _blank(self) -> Batch[Any]:
        """A batch of one black clip, for a rank without batches while others still call a sharded network."""
        zero = torch.zeros(1, dtype=torch.int64)
        return Batch(torch.zeros(self.grid.clip_shape(1), dtype=torch.uint8), zero, zero, Unlabelled(1))


def prepare_pretraining(settings: PretrainSettings, _feed: TrainingFeed) -> Prepared:
    """Build the pre-training task with initial weights; UserError for settings that cannot work."""
    generator = chance.torch_generator(chance.key(settings.run.seed, "initial weights"))
    device = parallel.building_device(settings.run.shard)
    network = build_autoencoder(settings.model, generator, device, settings.run.decoder_fp32)
    held_out = held_out_feed(settings.data, settings.model, settings.optim.batch_size, settings.run.device)
    task = Pretraining(network, settings.mask, settings.target, settings.run.seed, held_out)
    notes = (str(load_pretraining(network, settings.init)),) if settings.init and device != "meta" else ()
    extra = {
        "data": sampling_of(settings.data),
        "mask": asdict(settings.mask),
        "target": asdict(settings.target),
    }
    return Prepared(task, About("pretrain", settings.model, extra=extra), notes)


RECIPE = Recipe(prepare_pretraining, frames="pretrain")
