"""What a setting may be, beyond its type: checked before a run touches a file."""

from typing import Any

from videomae2.config import flatten
from videomae2.errors import UserError

AT_LEAST_ONE = frozenset(
    {
        "data.stride", "data.repeated_views", "data.test_clips", "data.test_crops", "optim.batch_size", "optim.accumulate",
        "run.log_every", "run.keep_last", "batch_size", "model.num_frames", "model.size", "model.tubelet", "model.decoder_depth",
    }
)  # fmt: skip
AT_LEAST_ZERO = frozenset(
    {
        "data.target_fps", "data.workers", "model.layer_scale", "optim.base_lr", "optim.min_lr", "optim.weight_decay",
        "optim.eps", "optim.clip_grad", "run.max_nonfinite", "num_classes", "head_init_scale", "mixup", "cutmix",
        "views_per_forward",
    }
)  # fmt: skip
SHARES = frozenset(
    {
        "data.erasing",
        "data.max_broken",
        "data.crop_scale",
        "mix_probability",
        "mix_switch",
        "optim.layer_decay",
    }
)
BELOW_ONE = frozenset(
    {"model.drop_path", "model.head_dropout", "optim.betas", "optim.ema_decay", "label_smoothing"}
)


def check_limits(settings: Any) -> None:
    """Refuse numbers that no run can use. UserError names the key, the value and what was expected."""
    for key, value in flatten(settings).items():
        for number in value if isinstance(value, tuple) else (value,):
            expected = _expected(key, number) if isinstance(number, int | float) else ""
            if expected:
                raise UserError(f"{key} is {number:g}, but {expected} was expected")


def _expected(key: str, number: int | float) -> str:
    """What the key takes, in words, where the number is not that; nothing where it is. A nan is never
    that.
    """
    if key in AT_LEAST_ONE and not number >= 1:
        return "a number from 1 on"
    if key in AT_LEAST_ZERO and not 0 <= number < float("inf"):
        return "a number from 0 on"
    if key in SHARES and not 0 <= number <= 1:
        return "a share from 0 to 1"
    if key in BELOW_ONE and not 0 <= number < 1:
        return "a share from 0 to below 1"
    return ""
