"""A trained network with what its user needs: class names, sampling, and methods that take a video file."""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from videomae2 import chance, visualize
from videomae2.api.create import with_changes
from videomae2.api.views import Video, trained_sampling, views_of
from videomae2.engine.device import autocast, choose_device
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.heads.classify import Classifier
from videomae2.losses import masked_mse
from videomae2.masking import draw_split
from videomae2.metrics.accuracy import ranking
from videomae2.models.autoencoder import Autoencoder
from videomae2.models.inference import for_inference
from videomae2.recipes.trained import Trained, read_trained
from videomae2.settings import MaskSettings, ModelSettings
from videomae2.targets import cubes, denormalize, paste, reconstruction_targets

VIEWS_AT_ONCE = 5
"""Views of one forward: as fast as all at once, in a third of the memory."""


@dataclass(frozen=True)
class Prediction:
    """A class, its name, and its share of the network's belief, in [0, 1]."""

    label: int
    name: str
    score: float

    def __str__(self) -> str:
        return f"{self.name} {100 * self.score:.1f} %"


@dataclass(frozen=True)
class Reconstruction:
    """A clip, what the encoder saw of it, and what the decoder made of that: uint8 [T, C, H, W] each.

    The reconstruction keeps the visible cubes as they are. Where targets were normalised, a prediction says
    only the pattern of a cube; its mean and contrast are taken from the true cube, as is usual for pictures
    of this kind. `error` is the training loss on the hidden cubes.
    """

    original: UInt8[Tensor, "T C H W"]
    seen: UInt8[Tensor, "T C H W"]
    rebuilt: UInt8[Tensor, "T C H W"]
    error: float

    def side_by_side(self, at_least: int = 0) -> UInt8[Tensor, "T C H W2"]:
        """Original | seen | reconstruction, enlarged to `at_least` pixels of height."""
        parts = (self.original, self.seen, self.rebuilt)
        return visualize.side_by_side([visualize.enlarge(part, at_least) for part in parts])

    def strip(self, count: int = 8, at_least: int = 0) -> UInt8[Tensor, "C H2 W2"]:
        """Three rows of `count` frames: original, seen, reconstruction."""
        rows = [
            visualize.strip(visualize.enlarge(part, at_least), count)
            for part in (self.original, self.seen, self.rebuilt)
        ]
        return visualize.stack(rows)


class Model:
    """A trained network behind methods that take a video: a path, or frames from `load_video`.

    `module` is the network itself (in evaluation mode), `settings` its `ModelSettings`, `class_names` one
    name for each class (numbers where the weights name none; empty without a head), `report` what became of
    every tensor. With `precision` "bf16" the methods run under bf16 autocast, and so must who calls the
    module.
    """

    def __init__(self, trained: Trained[Any], precision: str = "fp32") -> None:
        self.module: nn.Module = for_inference(trained.module, precision)
        self.precision = precision
        self.settings: ModelSettings = trained.settings
        self.checkpoint = trained.checkpoint
        self.report = trained.report
        self.data = trained_sampling(trained.checkpoint.metadata)

    def __repr__(self) -> str:
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"Model({self.checkpoint.source}: {self.checkpoint.kind} {self.settings.name}, {self.grid}{classes})"

    @property
    def grid(self) -> TokenGrid:
        """How the network cuts its clips."""
        encoder: Any = getattr(self.module, "encoder", self.module)
        return encoder.config.grid

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class."""
        count = self.checkpoint.num_classes or 0
        return self.checkpoint.class_names or tuple(str(number) for number in range(count))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    @torch.inference_mode()
    def predict(self, video: Video, top: int = 5, clips: int = 5, crops: int = 3) -> list[Prediction]:
        """The `top` best classes of a video, best first; the mean softmax over clips x crops views.

        UserError: a network without a head, a file that cannot be read.
        """
        if top < 1:
            raise UserError(f"the best {top} classes were asked for; ask for at least 1")
        classifier = self._classifier()
        parts = views_of(video, self.settings, self.data, clips, crops).split(VIEWS_AT_ONCE)
        with autocast(self.device, self.precision):
            scores = torch.cat(
                [classifier(part.to(self.device)).float().softmax(1).cpu() for part in parts]
            ).mean(0)
        best = ranking(scores[None])[0, :top].tolist()
        return [Prediction(label, self.class_names[label], float(scores[label])) for label in best]

    @torch.inference_mode()
    def features(self, video: Video, clips: int = 1, crops: int = 1, tokens: bool = False) -> Tensor:
        """One vector [D] of a video: what a head would read, the mean over clips x crops views.

        `tokens` gives the encoder's tokens [N, D] instead, in (t, h, w) raster order, for one view.
        """
        views = views_of(video, self.settings, self.data, clips, crops)
        if tokens and len(views) != 1:
            raise UserError(
                f"tokens of {clips}x{crops} views were asked for; tokens belong to one view: clips=1, crops=1"
            )
        with autocast(self.device, self.precision):
            if not tokens:
                parts = views.split(VIEWS_AT_ONCE)
                return torch.cat([self._pooled(part.to(self.device)).float().cpu() for part in parts]).mean(0)
            encoder: Any = getattr(self.module, "encoder", self.module)
            return encoder(views.to(self.device))[0].float().cpu()

    @torch.inference_mode()
    def reconstruct(self, video: Video, seed: int = 0, mask_ratio: float | None = None) -> Reconstruction:
        """Hide most of the centre view and predict every hidden cube; the mask follows from `seed`.

        The encoder's mask is the one of training, at `mask_ratio` if that is given; the decoder leaves out
        nothing, so that the whole clip is predicted. UserError for weights without a decoder.
        """
        autoencoder = self.module
        if not isinstance(autoencoder, Autoencoder):
            raise UserError(
                f"{self.checkpoint.source} has no decoder, so it cannot reconstruct; give a pre-training run "
                "or checkpoint "
                f"(fine-tuning and encoder-only files leave the decoder out)"
            )
        frames = views_of(video, self.settings, self.data).to(self.device)
        grid, mask, normalize = self.grid, self._mask(mask_ratio), self.normalize
        sample = torch.tensor([chance.key(seed, "reconstruction mask")], device=self.device)
        split = draw_split(grid, mask, sample)
        with autocast(self.device, self.precision):
            prediction = autoencoder(frames, split).float()
        error = masked_mse(prediction, reconstruction_targets(frames, grid, split.targets, normalize))
        pixels = denormalize(prediction, cubes(frames, grid, split.targets), grid, normalize)
        rebuilt = paste(pixels, split.targets, grid, frames.float() / 255)
        original = frames[0].cpu()
        seen = visualize.hide(original, grid, split.visible[0].cpu())
        return Reconstruction(original, seen, visualize.to_uint8(rebuilt[0]).cpu(), float(error))

    @property
    def normalize(self) -> str:
        return self.checkpoint.metadata.get("target", {}).get("normalize", "channel")

    def _mask(self, ratio: float | None) -> MaskSettings:
        kept = self.checkpoint.metadata.get("mask", {})
        mask = MaskSettings(
            encoder=kept.get("encoder", "tube"), encoder_ratio=kept.get("encoder_ratio", 0.9), decoder="none"
        )
        return mask if ratio is None else replace(mask, encoder_ratio=ratio)

    def _classifier(self) -> Classifier:
        if isinstance(self.module, Classifier):
            return self.module
        raise UserError(
            f"{self.checkpoint.source} is a {self.checkpoint.kind} network without a classification head, so "
            "it cannot name "
            f"classes; fine-tune it first: videomae2 finetune --init {self.checkpoint.source} --data.train "
            "LABELLED --out RUN"
        )

    def _pooled(self, frames: Tensor) -> Float[Tensor, "B D"]:
        if isinstance(self.module, Classifier):
            return self.module.features(frames)
        encoder: Any = getattr(self.module, "encoder", self.module)
        return encoder(frames).mean(1)


def load(
    weights: str | Path,
    /,
    *,
    device: str = "auto",
    use_ema: bool = True,
    precision: str = "fp32",
    **changes: Any,
) -> Model:
    """A trained network from a run's folder, a `.safetensors`, a released `.pth`, a `transformers` folder or
    a hub name.

    `device` is auto, cpu or cuda; `use_ema` takes a run's averaged weights where it has them; `precision` is
    fp32, or bf16 for autocast, about three times as fast where the processor has bf16 arithmetic. `changes`
    are settings of the model: num_frames=32 or size=288 interpolate its positions; name="vit_b16" says what a
    foreign file does not. UserError with what to try.
    """
    if precision not in ("fp32", "bf16"):
        raise UserError(f"precision is {precision!r}, but it takes one of fp32, bf16")
    change = partial(with_changes, changes=changes)
    return Model(read_trained(str(weights), use_ema, choose_device(device), change), precision)
