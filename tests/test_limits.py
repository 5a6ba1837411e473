"""Numbers that no run can use are refused by key; the defaults, and every page, are within the limits."""

from pathlib import Path

import pytest

from videomae2 import limits
from videomae2.config import flatten, load_settings
from videomae2.errors import UserError
from videomae2.limits import check_limits
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

COMMANDS = {"pretrain": PretrainSettings, "finetune": FinetuneSettings, "evaluate": EvaluateSettings}


@pytest.mark.parametrize(
    "page", sorted((Path(__file__).parents[1] / "experiments").glob("*/*.toml")), ids=lambda p: p.stem
)
def test_every_page_is_within_the_limits(page: Path) -> None:
    if page.parent.name in COMMANDS:
        check_limits(load_settings(COMMANDS[page.parent.name], page))


def test_every_limited_key_is_a_setting() -> None:
    keys = {key for cls in COMMANDS.values() for key in flatten(cls())}
    assert keys >= limits.AT_LEAST_ONE | limits.AT_LEAST_ZERO | limits.SHARES | limits.BELOW_ONE
    for cls in COMMANDS.values():
        check_limits(cls())


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--optim.base_lr", "-1"], "optim.base_lr is -1, but a number from 0 on was expected"),
        (["--optim.batch_size", "0"], "optim.batch_size is 0, but a number from 1 on was expected"),
        (["--data.stride", "0"], "data.stride is 0, but a number from 1 on was expected"),
        (["--data.max_broken", "5"], "data.max_broken is 5, but a share from 0 to 1 was expected"),
        (["--optim.betas", "0.9", "1"], "optim.betas is 1, but a share from 0 to below 1 was expected"),
        (["--label_smoothing", "2"], "label_smoothing is 2, but a share from 0 to below 1 was expected"),
        (["--mixup", "-3"], "mixup is -3, but a number from 0 on was expected"),
    ],
)
def test_what_came_and_what_was_expected(tokens: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_limits(load_settings(FinetuneSettings, None, tokens))
    assert str(caught.value) == message
