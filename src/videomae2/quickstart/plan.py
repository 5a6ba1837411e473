"""What the quickstart trains: the whole method, sized to show itself on two CPU cores in ten minutes."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from videomae2.data.sprites.scene import SpriteSettings, unordered_bound
from videomae2.settings import (
    DataSettings,
    EvaluateSettings,
    FinetuneData,
    FinetuneModel,
    FinetuneOptim,
    FinetuneSettings,
    MaskSettings,
    ModelSettings,
    OptimSettings,
    PretrainData,
    PretrainSettings,
    RunSettings,
)

FrameOrder = Literal["as_filmed", "shuffled"]

SPRITES = SpriteSettings(
    size=32,
    num_frames=20,
    classes=("left", "right", "up", "down", "left_fast", "right_fast", "up_fast", "down_fast"),
    sizes=(0.5, 0.9),
    beat=(16.0, 16.0),
    contrast=0.35,
)
"""Slow ones cross the frame once in a clip of 16, fast ones three times.

Both show the same places in another order: no still frame, and no average of frames, tells them apart.
"""
UNLABELLED, LABELLED, HELD_OUT = 4000, 64, 400
"""Videos to pre-train on, to fine-tune on, and to evaluate on."""
PREDICTED = 6
"""Of those to evaluate on, the first that are shown with what the network says."""
PRETRAINING_STEPS, FINETUNING_STEPS = 5000, 200

MODEL = ModelSettings(
    name="vit_ti16",
    num_frames=16,
    size=32,
    tubelet=4,
    patch=8,
    width=96,
    depth=4,
    num_heads=3,
    decoder_depth=1,
    decoder_width=96,
    decoder_heads=3,
    native_frames=16,
    native_size=32,
    positions="axes",
)
UNORDERED = unordered_bound(SPRITES.classes, MODEL.num_frames, SPRITES.beat[0])
"""What an ideal observer of a clip's frames in no order reaches: four of eight classes share an axis."""
MASK = MaskSettings(encoder="frame", encoder_ratio=0.5, decoder="running_cell", membership="unseen")
"""Whole tubelet steps are hidden: the background can be copied from those that are left, but what moves has
to be followed."""
RUN = RunSettings(precision="fp32", checkpoint_every="50%", log_every=20, tensorboard=False)
PLAIN = DataSettings(
    stride=1,
    repeated_views=1,
    crop="center",
    flip=False,
    rand_augment="",
    erasing=0.0,
    test_clips=3,
    test_crops=1,
    workers=1,
)


FROM_SCRATCH = {"base_lr": 8e-3, "layer_decay": 1.0}
"""Settings of the optimizer that the arm from scratch has for itself: lower rates for early layers spare
weights that are already good, and random ones learn too little under them."""


def pretraining(manifest: Path, out: Path, seed: int) -> PretrainSettings:
    """Pre-training from random weights.

    Two views of a video differ in their masks alone, and are made from one decode: they halve the decoding.
    """
    return PretrainSettings(
        model=MODEL,
        data=PretrainData(**vars(replace(PLAIN, train=str(manifest), repeated_views=2))),
        mask=MASK,
        optim=OptimSettings(
            base_lr=1.6e-2,
            lr_counts_views=True,
            min_lr=1.6e-4,
            batch_size=16,
            length=PRETRAINING_STEPS,
            warmup="10%",
            clip_grad=1.0,
        ),
        run=replace(RUN, out=str(out), seed=seed),
    )


def finetuning(
    manifest: Path,
    out: Path,
    seed: int,
    init: str,
    frame_order: FrameOrder = "as_filmed",
    *,
    scratch: bool = False,
) -> FinetuneSettings:
    """Supervised training; every arm has this budget and these settings, the one from scratch but two."""
    settings = FinetuneSettings(
        model=FinetuneModel(**vars(MODEL)),
        data=FinetuneData(**vars(PLAIN) | {"train": str(manifest), "frame_order": frame_order}),
        optim=FinetuneOptim(
            base_lr=1.2e-2,
            min_lr=8e-5,
            layer_decay=0.8,
            clip_grad=1.0,
            batch_size=32,
            length=FINETUNING_STEPS,
            warmup="10%",
        ),
        run=replace(RUN, out=str(out), seed=seed),
        mixup=0.0,
        cutmix=0.0,
        init=init,
    )
    if not scratch:
        return settings
    own = replace(settings.optim, base_lr=FROM_SCRATCH["base_lr"], layer_decay=FROM_SCRATCH["layer_decay"])
    return replace(settings, optim=own)


def evaluation(
    weights: Path, manifest: Path, out: Path, frame_order: FrameOrder = "as_filmed"
) -> EvaluateSettings:
    """Three clips of each held-out video."""
    return EvaluateSettings(
        weights=str(weights),
        data=replace(PLAIN, val=str(manifest), frame_order=frame_order),
        batch_size=16,
        views_per_forward=48,
        out=str(out),
    )
