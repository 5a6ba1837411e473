"""Masked autoencoding of unlabelled video with dual masking (paper 3.2, 4.1)."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from videomae2 import chance
from videomae2.engine import parallel as distributed
from videomae2.engine.loop import train
from videomae2.engine.run import RunFolder
from videomae2.errors import UserError
from videomae2.limits import check_limits
from videomae2.losses import masked_mse
from videomae2.masking import count_tokens, draw_split
from videomae2.models.autoencoder import Autoencoder
from videomae2.models.build import build_autoencoder
from videomae2.recipes.feed import held_out_feed, training_feed
from videomae2.recipes.outcome import sampling_of, weights_writer
from videomae2.recipes.progress import say
from videomae2.recipes.start import load_pretraining
from videomae2.records import ClipBatch, StepOutput, TokenSplit
from videomae2.settings import MaskSettings, PretrainSettings, TargetSettings
from videomae2.targets import reconstruction_targets


class Pretraining(nn.Module):
    """The task: mask, encode what is visible, predict what is hidden, compare.

    Masks follow from (seed, epoch, row, view), so they are the same for any number of workers or processes.
    `decoder_fp32` runs the decoder in full precision under bf16 autocast (paper, appendix).
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        mask: MaskSettings,
        target: TargetSettings,
        seed: int = 0,
        decoder_fp32: bool = False,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.grid = autoencoder.encoder.config.grid
        self.mask, self.target = mask, target
        self.seed = seed
        self.decoder_fp32 = decoder_fp32
        count_tokens(self.grid, mask)  # refuses a mask that this grid cannot have, before anything is trained

    def forward(self, batch: ClipBatch, step: int) -> StepOutput:
        """One training step's loss."""
        return StepOutput(self.loss(batch, chance.key(self.seed, "mask", batch.epoch)))

    def loss(self, batch: ClipBatch, mask_key: int) -> Float[Tensor, ""]:
        """The mean squared error of the scored cubes, with masks drawn from `mask_key` and each clip's row
        and view.
        """
        split = draw_split(self.grid, self.mask, chance.keys(mask_key, batch.row, batch.view))
        encoded = self.autoencoder.encoder(batch.frames, split.visible)
        prediction = self._decode(encoded, split)
        target = reconstruction_targets(batch.frames, self.grid, split.targets, self.target.normalize)
        return masked_mse(prediction, target)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the two networks, in place. Masks are drawn outside: their key changes, and a graph would
        be made for each.
        """
        self.autoencoder.encoder.compile(*args, **kwargs)
        self.autoencoder.decoder.compile(*args, **kwargs)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[ClipBatch]) -> dict[str, float]:
        """The mean loss over every clip, with the same masks at every call."""
        device = self.autoencoder.mask_token.device
        mask_key = chance.key(self.seed, "validation mask")
        total = torch.zeros(2, dtype=torch.float64)
        for batch in batches:
            if len(batch):
                loss = self.loss(batch.to(device), mask_key)
                total += torch.tensor([float(loss) * len(batch), len(batch)], dtype=torch.float64)
        summed, clips = distributed.mean(total.to(device)).tolist()
        if clips == 0:
            raise UserError(
                "no validation video could be read; videomae2 data check names the broken ones and why"
            )
        return {"loss": summed / clips}

    @staticmethod
    def evaluator(batches: Iterable[ClipBatch]) -> Callable[[nn.Module], dict[str, float]]:
        """What the loop calls with the task, or with its average."""

        def evaluate(task: nn.Module) -> dict[str, float]:
            assert isinstance(task, Pretraining)
            return task.evaluate(batches)

        return evaluate

    def _decode(self, encoded: Tensor, split: TokenSplit) -> Tensor:
        if not self.decoder_fp32:
            return self.autoencoder.decode(encoded, split)
        with torch.autocast(encoded.device.type, enabled=False):
            return self.autoencoder.decode(encoded.float(), split)


def run_pretraining(settings: PretrainSettings) -> Path:
    """Pre-train to the end of the plan, resuming where an earlier start left off; the run's folder comes
    back.

    The folder ends with `model.safetensors` (averaged weights where an average was kept). UserError for
    anything in the settings, the data or the initial weights that cannot work, before the folder is touched.
    """
    check_limits(settings)
    feed = training_feed(settings.data, settings.model, settings.optim, settings.run, "pretrain")
    plan = feed.plan()
    generator = chance.torch_generator(chance.key(settings.run.seed, "initial weights"))
    autoencoder = build_autoencoder(settings.model, generator)
    task = Pretraining(
        autoencoder, settings.mask, settings.target, settings.run.seed, settings.run.decoder_fp32
    )
    report = load_pretraining(autoencoder, settings.init) if settings.init else None
    held_out = held_out_feed(settings.data, settings.model, settings.optim.batch_size, settings.run.device)
    folder = RunFolder.create_or_resume(settings.run.out, settings)
    if report is not None:
        say(str(report))
    extra = {
        "data": sampling_of(settings.data),
        "mask": asdict(settings.mask),
        "target": asdict(settings.target),
    }
    write = weights_writer(folder.path, "autoencoder", settings.model, "pretrain", extra=extra)
    evaluate = Pretraining.evaluator(held_out) if held_out is not None else None
    parts = (task, feed, plan, settings.optim, settings.run, folder, evaluate)
    train(*parts, best_metric="loss", maximise=False, on_finish=write, name="pretrain")
    return folder.path
