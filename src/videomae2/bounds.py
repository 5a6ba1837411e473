"""What a setting may be, by bounds beside its type; and what was meant by one that does not exist.

A field reads `depth: Annotated[int, Between(1, 1000)] = 12`. Every bound is finite, because a number that no
machine can serve (a batch of two thousand million) is a slip of the hand: it is refused, not tried.
"""

import difflib
import math
import re
import types
import typing
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from videomae2.errors import UserError

SHOWN = 200
"""An error quotes at most this many characters of what came: some paste a file where a number belongs."""


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`; with `below`, `high` itself is out. Of a tuple, every number."""

    low: int | float
    high: int | float
    below: bool = False

    def allows(self, value: Any) -> bool:
        """Whether all numbers in `value` keep the bounds; what is no number (None) has none to keep."""
        numbers = value if isinstance(value, tuple) else (value,)
        return all(self._holds(number) for number in numbers if isinstance(number, int | float))

    def _holds(self, number: int | float) -> bool:
        # Written so that nan, which is neither above nor below anything, never holds.
        return self.low <= number < self.high if self.below else self.low <= number <= self.high

    def __str__(self) -> str:
        return f"from {self.low} to {'below ' if self.below else ''}{self.high}"


@dataclass(frozen=True)
class Lasting:
    """Durations: 12000 optimizer steps, "30ep" epochs or "5%" of the run, none of them above `most`.

    With `minutes` also "20min".
    """

    most: int = 10**9
    minutes: bool = False

    def allows(self, value: Any) -> bool:
        """Whether `value` is a duration, written as a number of steps or as text with its unit."""
        if isinstance(value, int):
            return 0 <= value <= self.most
        units = "ep|%|min|" if self.minutes else "ep|%|"
        match = re.fullmatch(rf"\s*([0-9]+)(\.[0-9]+)?\s*({units})\s*", value)
        if match is None or (match[2] and not match[3]):  # there is no half of a step
            return False
        return len(match[1]) <= len(str(self.most)) and int(match[1]) <= self.most

    def __str__(self) -> str:
        if self.minutes:
            return 'a duration such as 12000 (optimizer steps), "30ep" (epochs), "5%" (of the run) or "20min"'
        return 'a duration such as 12000 (optimizer steps), "30ep" (epochs) or "5%" (of the run)'


def fit(kind: Any, value: Any) -> Any:
    """`value` as a setting of this type holds it: a whole number serves as a number, a list as a tuple.

    ValueError where the type, or a bound beside it, does not allow the value.
    """
    base, bounds = _unwrap(kind)
    for choice in _alternatives(base):
        try:
            fitted = _exactly(choice, value)
        except ValueError:
            continue
        if all(bound.allows(fitted) for bound in bounds):
            return fitted
    raise ValueError(f"expected {expectation(kind)}, got {shown(value)}")


def expectation(kind: Any) -> str:
    """A type and its bounds in a user's words: "a whole number from 1 to 64", "one of dense, segments"."""
    base, bounds = _unwrap(kind)
    if any(isinstance(bound, Lasting) for bound in bounds):
        return " ".join(map(str, bounds))
    first, *others = _alternatives(base)
    return " or ".join([" ".join([_words(first), *map(str, bounds)]), *map(_words, others)])


def choices(kind: Any) -> tuple[str, ...]:
    """The words that a setting of this type chooses from; none where it is no choice."""
    base, _ = _unwrap(kind)
    return typing.get_args(base) if typing.get_origin(base) is Literal else ()


def shown(value: Any) -> str:
    """`value` as an error quotes it: on one line, cut to a length that a terminal bears."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits, or deeper nesting, than Python writes out
        return f"something too large to show ({type(value).__name__})"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def is_text(value: str) -> bool:
    """Whether a page can hold it: no NUL, which no name has in it, and no bytes that are not UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def shortened(text: str) -> str:
    """A text on one line, its middle left out where it is longer than an error quotes."""
    line = " ".join(text.split())
    half = (SHOWN - 3) // 2
    return line if len(line) <= SHOWN else f"{line[:half]}...{line[-half:]}"


def from_words(kind: Any, words: Sequence[str]) -> Any:
    """Words of the command line as the value that a setting of this type asks for.

    What does not look like the type stays text, for `fit` to refuse in the user's own spelling.
    """
    base, _ = _unwrap(kind)
    if typing.get_origin(base) is tuple:
        return [_number(part) for word in words for part in word.split(",") if part]
    if len(words) != 1:
        return list(words)
    text, types_ = words[0], _alternatives(base)
    if bool in types_ and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if types.NoneType in types_ and text.lower() == "none":
        return None
    return _number(text) if int in types_ or float in types_ else text


def _unwrap(kind: Any) -> tuple[Any, list[Between | Lasting]]:
    """The type without what is annotated, and the bounds among that."""
    if typing.get_origin(kind) is not Annotated:
        return kind, []
    base, *notes = typing.get_args(kind)
    return base, [note for note in notes if isinstance(note, Between | Lasting)]


def _alternatives(base: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(base) in (types.UnionType, typing.Union)
    return typing.get_args(base) if is_union else (base,)


def _exactly(choice: Any, value: Any) -> Any:
    """The value as this very type; ValueError where it is not: true is no number, 224.0 no whole one."""
    if typing.get_origin(choice) is Literal and value in typing.get_args(choice):
        return value
    if typing.get_origin(choice) is tuple and isinstance(value, list | tuple):
        parts = typing.get_args(choice)
        return tuple(_exactly(part, each) for part, each in zip(parts, value, strict=True))
    if choice is float and type(value) in (int, float) and _is_finite(value):
        return float(value)
    if choice is str and isinstance(value, str) and not is_text(value):
        raise ValueError
    if choice is not float and isinstance(choice, type) and type(value) is choice:
        return value
    raise ValueError


def _is_finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _words(choice: Any) -> str:
    if typing.get_origin(choice) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(choice)))
    if typing.get_origin(choice) is tuple:
        return f"{len(typing.get_args(choice))} numbers"
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "none",
    }
    return names[choice]


def _number(text: str) -> int | float | str:
    """The number that the text writes; the text where it writes none, or one that no float holds."""
    try:
        return int(text)
    except ValueError:  # no whole number, or one of more digits than Python reads
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


ALIASES = {
    "out": "run.out", "seed": "run.seed", "device": "run.device", "precision": "run.precision",
    "train": "data.train", "val": "data.val", "workers": "data.workers", "batch_size": "optim.batch_size",
    "clips": "data.test_clips", "crops": "data.test_crops", "optim.lr": "optim.base_lr",
}  # fmt: skip
"""Short names on the line and in Python, for commands that have the long one and no key of the short name."""

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
