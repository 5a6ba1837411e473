"""A trained network with what its user needs: class names, sampling, and methods that take a video file."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from videomae2 import chance
from videomae2.api.answers import Viewing, means_over_views, raise_failure
from videomae2.api.detectors import Detector, find_detector
from videomae2.api.frames import Video, are_many
from videomae2.api.raw_video import ActionDetector, KeyFrame, Request
from videomae2.api.views import Reconstruction, hide, to_uint8, trained_sampling, views_of
from videomae2.bounds import SHOWN, shown
from videomae2.config import known_settings
from videomae2.data.tables.manifest import Manifest
from videomae2.engine.device import choose_device, freed_memory_kept
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.heads.classify import Classifier, PooledEncoder, build_classifier
from videomae2.heads.spatial import SpatialDetector
from videomae2.masking import draw_split
from videomae2.metrics.accuracy import ranking
from videomae2.models.autoencoder import Autoencoder
from videomae2.models.build import build_autoencoder
from videomae2.models.cpu import for_inference
from videomae2.models.encoder import Encoder
from videomae2.recipes.weights import Trained, read_trained
from videomae2.records import Failure
from videomae2.settings import FinetuneSettings, MaskSettings, ModelSettings
from videomae2.targets import cubes, denormalize, masked_mse, paste, reconstruction_targets

VIEWS_AT_ONCE = {"cpu": 5, "cuda": 30}
"""Views of one forward, by device: as fast as all at once, in a third of the memory."""
PRECISIONS = ("fp32", "bf16")
OnError = Literal["raise", "record"]
"""What becomes of a video that cannot be read: an error, or a `Failure` in the place of its answer."""


@dataclass(frozen=True)
class Prediction:
    """A class, its name, and its share of the network's belief, in [0, 1]."""

    label: int
    name: str
    score: float

    def __str__(self) -> str:
        return f"{self.name} {100 * self.score:.1f} %"


class Model:
    """A trained network behind methods that take a video, or a list of them: paths, or frames at hand.

    Frames are those from `load_video`, arrays, or lists of PIL images.

    `module` is the network itself (in evaluation mode), `settings` its `ModelSettings`, `class_names` one
    name for each class (numbers where the weights name none; empty without a head), `report` what became of
    every tensor. With `precision` "bf16" linear layers hold bf16 weights and compute as under autocast;
    whoever calls `module` needs none.
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
        network = f"{self.checkpoint.kind} {self.settings.name}, {self.grid}{classes}"
        return f"Model({self.checkpoint.source}: {network})"

    @property
    def encoder(self) -> Encoder:
        """The part that every network has: frames to tokens."""
        # Weights of an encoder alone are loaded as one: there is no network around it.
        return cast(Encoder, getattr(self.module, "encoder", self.module))

    @property
    def grid(self) -> TokenGrid:
        """How the network cuts its clips."""
        return self.encoder.config.grid

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class."""
        count = self.checkpoint.num_classes or 0
        return self.checkpoint.class_names or tuple(str(number) for number in range(count))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    @property
    def normalize(self) -> str:
        """How the targets of pre-training were normalised: channel, cube or none."""
        return str(self.checkpoint.metadata.get("target", {}).get("normalize", "channel"))

    @overload
    def predict(
        self,
        video: Video,
        top: int = 5,
        clips: int = 5,
        crops: int = 3,
        *,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self,
        video: Sequence[Any],
        top: int = 5,
        clips: int = 5,
        crops: int = 3,
        *,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> list[Any]: ...

    def predict(
        self,
        video: Video | Sequence[Any],
        top: int = 5,
        clips: int = 5,
        crops: int = 3,
        *,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> list[Prediction] | list[Any]:
        """The `top` best classes of a video, best first; the mean softmax over clips x crops views.

        Of a list of videos, such a list for each; files of a long list are decoded by `workers` processes
        (None chooses). UserError: a network without a head, a video that cannot be read; with `on_error`
        "record" such a video has a `Failure` in its place.
        """
        _must_be_choice(on_error)
        many = are_many(video)
        videos: Any = video if many else [video]
        found = list(self.predict_each(videos, top, clips, crops, workers=workers, on_error=on_error))
        return found if many else found[0]

    def predict_each(
        self,
        videos: Sequence[Any] | Manifest,
        top: int = 5,
        clips: int = 5,
        crops: int = 3,
        *,
        workers: int | None = None,
        on_error: OnError = "record",
    ) -> Iterator[Any]:
        """As `predict` of a list or a manifest, one answer after the other as they come, in order."""
        if top < 1:
            raise UserError(f"expected at least 1 class to name, got top={top}; try top=5")
        classifier = self._classifier()
        viewing = Viewing(self.settings, self.data, clips, crops, workers)

        def softmax(views: Tensor) -> Tensor:
            scores: Tensor = classifier(views).float().softmax(1)
            return scores

        for scores in self._each(softmax, videos, viewing, on_error):
            if isinstance(scores, Failure):
                yield scores
                continue
            if not scores.isfinite().all():
                raise UserError(
                    f"expected finite scores, got NaN or infinity: the weights {self.checkpoint.source} are "
                    "broken; try an earlier checkpoint"
                )
            best = ranking(scores[None])[0, :top].tolist()
            yield [Prediction(label, self.class_names[label], float(scores[label])) for label in best]

    def detect(
        self,
        video: str | Path,
        *,
        detector: str = "auto",
        boxes: str = "",
        every: float = 1.0,
        threshold: float | None = None,
        top: int = 3,
        least: float = 0.1,
    ) -> list[KeyFrame]:
        """Who does what, where: one record a key frame, a key frame every so many seconds.

        `detector` finds the actors (`find_detector` lists the words), or `boxes` names a file that has them.
        At most `top` actions of each actor, of at least the score `least`. UserError for weights without a
        head over boxes, and for what cannot be read.
        """
        found = find_detector(detector, boxes, threshold)
        return list(self.detections(video, found, Request(every, top, least)))

    def detections(self, video: str | Path, detector: Detector, request: Request) -> Iterator[KeyFrame]:
        """As `detect`, one key frame after another, in constant memory, with a detector of one's own."""
        if not isinstance(self.module, SpatialDetector):
            source, kind = self.checkpoint.source, self.checkpoint.kind
            raise UserError(
                f"{source} is a {kind} network without a head over boxes, so it cannot say who does what; "
                f"train one first: videomae2 detect-train --init {source} --data.train BOXES --out RUN"
            )
        kept = self.checkpoint.metadata.get("detect", {})
        return ActionDetector(self.module, self.class_names, self.data, kept, detector).key_frames(
            video, request
        )

    def features(
        self,
        video: Video | Sequence[Any],
        clips: int = 1,
        crops: int = 1,
        tokens: bool = False,
        *,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """One vector [D] of a video: what a head would read, the mean over clips x crops views.

        `tokens` gives the encoder's tokens [N, D] instead, in (t, h, w) raster order, for one view. Of a list
        of M videos: [M, D], or [M, N, D]; `workers` and `on_error` as in `predict`, and with "record" a list
        of M tensors or `Failure`s.
        """
        _must_be_choice(on_error)
        if tokens and (clips, crops) != (1, 1):
            raise UserError(
                f"expected one view for its tokens, got {clips}x{crops} views; try clips=1 and crops=1, "
                "or tokens=False for the mean over the views"
            )
        many = are_many(video)
        videos: Any = video if many else [video]
        network = self.encoder if tokens else self._pooled
        viewing = Viewing(self.settings, self.data, clips, crops, workers)
        found = list(self._each(network, videos, viewing, on_error))
        if not many:
            return found[0]
        return torch.stack(found) if on_error == "raise" else found

    @torch.inference_mode()
    def pooled(self, frames: Tensor) -> Float[Tensor, "B D"]:
        """One vector of each clip [B, T, C, H, W], uint8 or float in [0, 1]: what a head would read."""
        return self._pooled(frames.to(self.device))

    def pooled_unnormalised(self, frames: UInt8[Tensor, "B T C H W"]) -> Float[Tensor, "B D"]:
        """As `pooled`, of pixels in [0, 1] as they are: the authors' extraction does that."""
        # The network subtracts and divides in any case, so that both are put in first.
        tokenizer = self.encoder.patch_embed
        pixels = frames.to(self.device).float() / 255
        axes = (1, -1, 1, 1)
        return self.pooled(pixels * tokenizer.std.view(axes) + tokenizer.mean.view(axes))

    @torch.inference_mode()
    def reconstruct(self, video: Video, seed: int = 0, mask_ratio: float | None = None) -> Reconstruction:
        """Hide most of the centre view and predict every hidden cube; the mask follows from `seed`.

        The encoder's mask is the one of training, at `mask_ratio` if that is given; the decoder leaves out
        nothing, so that the whole clip is predicted. UserError for weights without a decoder.
        """
        autoencoder = self._autoencoder()
        frames = views_of(video, self.settings, self.data).to(self.device)
        grid, normalize = self.grid, self.normalize
        sample = torch.tensor([chance.key(seed, "reconstruction mask")], device=self.device)
        split = draw_split(grid, self._mask(mask_ratio), sample)
        prediction = autoencoder(frames, split).float()
        error = masked_mse(prediction, reconstruction_targets(frames, grid, split.targets, normalize))

        def pasted(prediction: Tensor) -> Tensor:
            pixels = denormalize(prediction, cubes(frames, grid, split.targets), grid, normalize)
            return to_uint8(paste(pixels, split.targets, grid, frames.float() / 255)[0]).cpu()

        original = frames[0].cpu()
        seen = hide(original, grid, split.visible[0].cpu())
        # Normalised targets are 0 on average: a prediction of zeros shows what the truth lends, and no more.
        means = None if normalize == "none" else pasted(torch.zeros_like(prediction))
        return Reconstruction(original, seen, pasted(prediction), float(error), means)

    def _each(
        self,
        network: Callable[[Tensor], Tensor],
        videos: Sequence[Any] | Manifest,
        viewing: Viewing,
        on_error: OnError,
    ) -> Iterator[Any]:
        """The mean over a video's views of what a network makes of them, or a failure; one for each video."""
        if not len(videos):
            raise UserError("expected at least one video, got an empty list; give paths or frames")
        at_once = VIEWS_AT_ONCE[self.device.type]

        @torch.inference_mode()
        def forward(views: Tensor) -> Tensor:
            parts = torch.split(views, at_once)
            return torch.cat([network(part.to(self.device)).float().cpu() for part in parts])

        # One video is soon done; a program that asks for one after the other would pay each time.
        with freed_memory_kept() if len(videos) > 1 else contextlib.nullcontext():
            for found in means_over_views(forward, videos, viewing, at_once):
                if isinstance(found, Failure) and on_error == "raise":
                    raise_failure(found)
                yield found

    def _pooled(self, frames: Tensor) -> Float[Tensor, "B D"]:
        """What a head reads, or would read: the mean over tokens where no head says otherwise."""
        if isinstance(self.module, Classifier | PooledEncoder):
            return self.module.features(frames)
        pooled: Tensor = self.encoder(frames).mean(1)
        return pooled

    def _mask(self, ratio: float | None) -> MaskSettings:
        # Files of others do not say how they were masked; the paper's mask stands in.
        kept = self.checkpoint.metadata.get("mask", {})
        mask = MaskSettings(
            encoder=kept.get("encoder", "tube"), encoder_ratio=kept.get("encoder_ratio", 0.9), decoder="none"
        )
        return mask if ratio is None else replace(mask, encoder_ratio=ratio)

    def _classifier(self) -> Classifier:
        if isinstance(self.module, Classifier):
            return self.module
        source, kind = self.checkpoint.source, self.checkpoint.kind
        raise UserError(
            f"{source} is a {kind} network without a classification head, so it cannot name classes; "
            f"fine-tune it first: videomae2 finetune --init {source} --data.train LABELLED --out RUN"
        )

    def _autoencoder(self) -> Autoencoder:
        if isinstance(self.module, Autoencoder):
            return self.module
        raise UserError(
            f"{self.checkpoint.source} has no decoder, so it cannot reconstruct; give a pre-training run or "
            "checkpoint (fine-tuning and encoder-only files leave the decoder out)"
        )


def load(
    weights: str | Path,
    /,
    *,
    device: str = "auto",
    use_ema: bool = True,
    precision: str = "fp32",
    **changes: Any,
) -> Model:
    """Load a trained network from whatever names it.

    `weights` is a run's folder, a `.safetensors`, a released `.pth`, a `transformers` folder or a hub name.
    `device` is auto, cpu or cuda; `use_ema` takes a run's averaged weights where it has them; `precision` is
    fp32, or bf16, about three times as fast where the processor has bf16 arithmetic. `changes`
    are settings of the model: num_frames=32 or size=288 interpolate its positions; name="vit_b16" says what a
    foreign file does not. UserError with what to try.
    """
    if precision not in PRECISIONS:
        raise UserError(
            f"expected precision {' or '.join(PRECISIONS)}, got {precision!r}; try precision='bf16'"
        )
    change = partial(_changed, changes=changes)
    trained = read_trained(str(weights), use_ema, choose_device(device), change)
    if not trained.report.complete:  # an answer without one of its tensors is another network's answer
        left = (*trained.report.unexpected, *trained.report.missing, *trained.report.mismatched)
        raise UserError(
            f"expected a network for every tensor of {trained.report.source}, got none for "
            f"{', '.join(left[:3])[:SHOWN]}; save the network without it, or build that network yourself"
        )
    return Model(trained, precision)


def create_model(
    name: str = "vit_b16", num_classes: int | None = None, *, seed: int = 0, **changes: Any
) -> nn.Module:
    """Create an untrained network: a `Classifier` of `num_classes` classes, or an `Autoencoder` without them.

    `changes` are settings of the model, such as num_frames=8, size=112 or drop_path=0.1 (`ModelSettings`
    lists them). Weights follow from `seed`. A classifier takes frames [B, T, C, H, W], uint8 or float in [0,
    1], and gives [B, K].
    """
    settings = _changed(ModelSettings(), {"name": name, **changes})
    known = known_settings(FinetuneSettings)
    known["run.seed"].take(seed)
    generator = chance.torch_generator(chance.key(seed, "initial weights"))
    if num_classes is None:
        return build_autoencoder(settings, generator)
    classes = known["num_classes"].take(num_classes)
    return build_classifier(settings, classes, generator=generator)


def _must_be_choice(on_error: str) -> None:
    if on_error not in ("raise", "record"):
        raise UserError(f"expected on_error raise or record, got {shown(on_error)}; try on_error='record'")


def _changed(settings: ModelSettings, changes: Mapping[str, Any]) -> ModelSettings:
    """Settings of a model with some replaced; UserError, with the nearest name, for what is no setting."""
    known = known_settings(ModelSettings)
    for change in changes:
        if change not in known:
            near = get_close_matches(change[:SHOWN], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
            raise UserError(f"{shown(change)} is no setting of a model; {hint}")
    return replace(settings, **{name: known[name].take(value) for name, value in changes.items()})
