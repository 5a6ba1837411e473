"""What a user may have meant by a setting that does not exist: another command's word, the nearest name."""

import difflib
from collections.abc import Collection

from videomae2.bounds import shown
from videomae2.errors import UserError

ALIASES = {"out": "run.out", "seed": "run.seed", "device": "run.device", "optim.lr": "optim.base_lr"}
"""Short names on the command line, for commands that have the long one and no key of the short name."""

SYNONYMS = {
    "accum_iter": "optim.accumulate", "accumulation_steps": "optim.accumulate", "amp": "run.precision",
    "batch": "optim.batch_size", "beta": "optim.betas", "bf16": "run.precision", "checkpoint": "init",
    "ckpt": "init", "classes": "num_classes", "clip_len": "model.num_frames", "crop_size": "model.size",
    "data_path": "data.train", "dataset": "data.train", "decay": "optim.weight_decay",
    "drop": "model.head_dropout", "dtype": "run.precision", "ema": "optim.ema_decay",
    "epoch": "optim.length", "epochs": "optim.length", "finetune": "init", "fp16": "run.precision",
    "fps": "data.target_fps", "frames": "model.num_frames", "gpu": "run.device", "gpus": "run.device",
    "grad_clip": "optim.clip_grad", "img_size": "model.size", "input_size": "model.size",
    "iterations": "optim.length", "learning_rate": "optim.base_lr", "lr": "optim.base_lr",
    "manifest": "data.train", "mask_ratio": "mask.encoder_ratio", "max_epochs": "optim.length",
    "max_steps": "optim.length", "mixup_prob": "mix_probability", "model": "model.name",
    "nb_classes": "num_classes", "num_crops": "data.test_crops", "num_epochs": "optim.length",
    "num_sample": "data.repeated_views", "num_workers": "data.workers", "output": "run.out",
    "output_dir": "run.out", "pretrained": "init", "reprob": "data.erasing", "resolution": "model.size",
    "resume": "run.out", "sampling_rate": "data.stride", "save_freq": "run.checkpoint_every",
    "smoothing": "label_smoothing", "steps": "optim.length", "test_num_crop": "data.test_crops",
    "test_num_segment": "data.test_clips", "train": "data.train", "tubelet_size": "model.tubelet",
    "val": "data.val", "warmup_epochs": "optim.warmup", "warmup_steps": "optim.warmup",
    "wd": "optim.weight_decay", "workers": "data.workers",
}  # fmt: skip
"""Words of the released scripts and of other trainers -> ours."""

WITHOUT_SECTION = {
    "init": "weights",
    "optim.batch_size": "batch_size",
    "run.device": "device",
    "run.out": "out",
    "run.precision": "precision",
}
"""Our settings -> their names in a command that lacks the section (`evaluate`)."""

CHOICE_SYNONYMS = {
    "amp": "bf16", "bfloat16": "bf16", "float16": "bf16", "float32": "fp32", "fp16": "bf16", "gpu": "cuda",
    "half": "bf16", "mixed": "bf16",
}  # fmt: skip
"""Words that people bring for a choice -> the choice. By its letters alone "gpu" would be "cpu"."""


def meant_choice(value: object, choices: Collection[str]) -> str | None:
    """The choice that a wrong word was likely meant to be."""
    word = value.lower() if isinstance(value, str) else ""
    synonym = CHOICE_SYNONYMS.get(word.partition(":")[0])
    if synonym in choices:
        return synonym
    return next(iter(difflib.get_close_matches(word[:100], choices, n=1)), None)


def key_of(name: str, keys: Collection[str]) -> str:
    """The key that an option's name means: underscores for hyphens, and the short names of `ALIASES`."""
    key = name.replace("-", "_")
    return ALIASES[key] if key not in keys and ALIASES.get(key) in keys else key


def unknown(name: str, keys: Collection[str], where: str) -> UserError:
    """The error for a name that is no key: what was likely meant, or where to look."""
    wanted = name.replace("-", "_").lower()
    inside = [key for key in keys if key.startswith(f"{wanted}.")]
    if inside:
        return UserError(f"{name} {where} is a section; set one of its keys, such as {inside[0]}")
    meant = meant_key(name, keys)
    sections = ", ".join(sorted({key.rpartition(".")[0] for key in keys if "." in key}))
    advice = f"did you mean {meant}?" if meant else f"the sections are {sections}; see --help"
    return UserError(f"unknown setting {shown(name)[1:-1]} {where}; {advice}")


def meant_key(name: str, keys: Collection[str]) -> str | None:
    """The likeliest key: a synonym's, one with the same last word, the nearest whole name or last word."""
    wanted = name.replace("-", "_").lower()
    last = wanted.rpartition(".")[2]
    for word in (wanted, last):
        synonym = SYNONYMS.get(word, "")
        for key in (synonym, WITHOUT_SECTION.get(synonym)):
            if key in keys:
                return key
    by_last = {key.rpartition(".")[2]: key for key in keys}
    if last in by_last:
        return by_last[last]
    whole = difflib.get_close_matches(wanted[:100], keys, n=1)
    ending = [key for key in keys if key.endswith(f"_{last}")]
    near = [by_last[match] for match in difflib.get_close_matches(last[:100], by_last, n=1)]
    return next(iter([*whole, *ending, *near]), None)
