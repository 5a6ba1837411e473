"""The defaults that decide a run's numbers, each written out again here beside where it comes from.

[P] is the paper's appendix, [C] the released code, [ours] our choice; where they differ, the released ViT-B
script decides, so that the defaults of a command are one published row. Whoever changes a default changes it
here too, and says why.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from videomae2.config import differences, load_settings
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

NETWORK: dict[str, Any] = {
    "model.name": "vit_b16",  # [ours] the smallest that the authors released
    "model.num_frames": 16,  # [P]
    "model.size": 224,  # [P]
    "model.tubelet": 2,  # [P]
    "model.patch": None,  # these six are the size table's
    "model.width": None,
    "model.depth": None,
    "model.num_heads": None,
    "model.decoder_width": None,
    "model.decoder_heads": None,
    "model.decoder_depth": 4,  # [P]
    "model.native_frames": 16,  # [C] the grid of the released position table
    "model.native_size": 224,  # [C]
    "model.positions": "sinusoid",  # [C]
    "model.cosine_attention": False,  # [C]
    "model.layer_scale": 0.0,  # [C]
    "model.head_dropout": 0.0,  # [C]
    "model.activation_checkpointing": False,  # [ours] changes memory, not numbers
    "model.mlp_checkpointing": False,  # [ours]
}
CLIPS: dict[str, Any] = {
    "data.train": "",
    "data.val": "",
    "data.root": "",
    "data.list_format": "auto",  # [ours]
    "data.frame_pattern": "img_{:05}.jpg",  # [C]
    "data.first_label": 0,
    "data.sampling": "dense",  # [P] segments for Something-Something
    "data.stride": 4,  # [P]
    "data.target_fps": 0.0,  # [C] by frame number
    "data.frame_order": "as_filmed",  # the other is our control
    "data.crop_scale": (0.08, 1.0),  # [C]
    "data.color_jitter": (0.0, 0.0, 0.0),  # [C] on for action detection alone
    "data.test_clips": 5,  # [P]
    "data.test_crops": 3,  # [P]
    "data.workers": 2,  # [ours]
    "data.max_broken": 0.05,  # [ours]
    "data.max_seconds": 300.0,  # [ours]
    "data.retries": 5,  # [ours]
}
RUN: dict[str, Any] = {
    "run.seed": 0,  # [C]
    "run.precision": "bf16",  # [ours] the released code trains in fp16
    "run.decoder_fp32": False,  # [C] the paper's appendix says fp32
}
STEP: dict[str, Any] = {
    "optim.weight_decay": 0.05,  # [P]
    "optim.eps": 1e-8,  # [C]
    "optim.clip_grad": 0.0,  # [C] 0.02 for ViT-g alone
    "optim.accumulate": 1,
    "optim.ema_decay": 0.0,  # [C]
}
DEFAULTS: dict[type, dict[str, Any]] = {
    PretrainSettings: NETWORK
    | CLIPS
    | RUN
    | STEP
    | {
        "model.drop_path": 0.0,  # [C]
        "data.repeated_views": 4,  # [P]
        "data.crop": "multi_scale",  # [P]
        "data.flip": False,  # [P]
        "data.rand_augment": "",  # [P]
        "data.erasing": 0.0,  # [P]
        "mask.encoder": "tube",  # [P]
        "mask.encoder_ratio": 0.9,  # [P]
        "mask.decoder": "running_cell",  # [P]
        "mask.decoder_ratio": 0.5,  # [P]
        "mask.membership": "released",  # [C]
        "mask.scored": "unseen",  # [P]
        "target.normalize": "channel",  # [C]
        "optim.base_lr": 1e-3,  # [C] ViT-B; the paper's 1.5e-4 counts the four views, this is 2.5e-4 so
        "optim.lr_counts_views": False,  # [C]
        "optim.min_lr": 1e-5,  # [C]
        "optim.betas": (0.9, 0.95),  # [P]
        "optim.layer_decay": 1.0,  # [P]
        "optim.batch_size": 32,  # [C] of one GPU
        "optim.length": "200ep",  # [C] ViT-B; the larger ones 300, the paper's 1200 passes of one view
        "optim.warmup": "20ep",  # [C] likewise
        "init": "",
    },
    FinetuneSettings: NETWORK
    | CLIPS
    | RUN
    | STEP
    | {
        "model.drop_path": 0.1,  # [C] ViT-B
        "data.repeated_views": 2,  # [P]
        "data.crop": "random_resized",  # [C] the paper says multi-scale
        "data.flip": True,  # [P] off for Something-Something
        "data.rand_augment": "rand-m7-n4-mstd0.5-inc1",  # [C]
        "data.erasing": 0.25,  # [C]
        "optim.base_lr": 7e-4,  # [C] ViT-B
        "optim.lr_counts_views": False,  # [C]
        "optim.min_lr": 1e-6,  # [C]
        "optim.betas": (0.9, 0.999),  # [P]
        "optim.layer_decay": 0.75,  # [C] ViT-B
        "optim.batch_size": 16,  # [C] ViT-B, of one GPU
        "optim.length": "90ep",  # [C] ViT-B
        "optim.warmup": "5ep",  # [P]
        "num_classes": 0,  # counted
        "head_init_scale": 0.001,  # [C]
        "label_smoothing": 0.1,  # [P]
        "mixup": 0.8,  # [P]
        "cutmix": 1.0,  # [P]
        "mix_probability": 1.0,  # [C]
        "mix_switch": 0.5,  # [C]
        "init": "",
        "label_map": "",
    },
    EvaluateSettings: CLIPS
    | {
        "data.repeated_views": 1,  # these five are not read in an evaluation
        "data.crop": "random_resized",
        "data.flip": True,
        "data.rand_augment": "rand-m7-n4-mstd0.5-inc1",
        "data.erasing": 0.25,
        "weights": "",
        "batch_size": 1,  # [ours]
        "views_per_forward": 15,  # [ours] 5 x 3
        "use_ema": True,  # [ours]
        "as_trained": True,  # [ours]
        "match": "names",  # [ours]
        "device": "auto",
        "precision": "bf16",  # [ours]
        "out": "",
    },
}


@pytest.mark.parametrize("command", DEFAULTS, ids=lambda command: command.__name__)
def test_defaults_are_those_that_are_written_here(command: type) -> None:
    found = dict(_flat(command()))
    execution = {key for key in found if key.startswith("run.")} - set(RUN)
    assert {key: value for key, value in found.items() if key not in execution} == DEFAULTS[command]


PAGES = Path(__file__).parents[2] / "experiments"
PUBLISHED_ROW: dict[str, tuple[type, dict[str, Any]]] = {
    "pretrain/b_script": (PretrainSettings, {}),
    "finetune/b_k400": (FinetuneSettings, {"num_classes": 400}),
    "evaluate/kinetics_5x3": (EvaluateSettings, {}),
}
"""The page of each command that its defaults are, and what the page says beyond them."""


@pytest.mark.parametrize("page", PUBLISHED_ROW)
def test_the_defaults_of_a_command_are_one_published_row(page: str) -> None:
    command, beyond = PUBLISHED_ROW[page]
    found: Any = load_settings(command, PAGES / f"{page}.toml")
    assert {each.key: each.second for each in differences(command(), found)} == beyond


ELSEWHERE = {
    "finetune/b_k710": {"num_classes"},
    "finetune/b_ssv2": {
        "num_classes", "data.sampling", "data.flip", "data.test_clips", "optim.base_lr", "optim.layer_decay",
        "optim.length",
    },
    "pretrain/l_script": {"model.name", "optim.length", "optim.warmup"},
    "pretrain/h_script": {"model.name", "optim.length", "optim.warmup"},
    "pretrain/g_script": {"model.name", "optim.base_lr", "optim.clip_grad", "optim.length", "optim.warmup"},
    "finetune/l_k400": {
        "num_classes", "model.name", "model.drop_path", "optim.base_lr", "optim.batch_size", "optim.length",
    },
    "finetune/h_k400": {
        "num_classes", "model.name", "model.drop_path", "model.head_dropout", "optim.base_lr",
        "optim.layer_decay", "optim.batch_size", "optim.length",
    },
    "finetune/g_k400": {
        "num_classes", "model.name", "model.drop_path", "optim.base_lr", "optim.weight_decay",
        "optim.layer_decay", "optim.batch_size", "optim.length",
    },
}  # fmt: skip
"""In which keys the defaults are not what the script for another data set or another size has."""


@pytest.mark.parametrize("page", ELSEWHERE)
def test_where_the_defaults_are_not_a_published_row_is_known(page: str) -> None:
    command = PretrainSettings if page.startswith("pretrain") else FinetuneSettings
    found: Any = load_settings(command, PAGES / f"{page}.toml")
    memory = {"model.activation_checkpointing"}  # changes no number
    assert {each.key for each in differences(command(), found)} - memory == ELSEWHERE[page]


def _flat(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            pairs += _flat(value, f"{prefix}{field.name}.")
        else:
            pairs.append((f"{prefix}{field.name}", value))
    return pairs
