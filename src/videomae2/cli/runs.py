"""The commands that take a page of settings: pretrain, finetune, evaluate. Torch is imported only when one
runs.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

from videomae2.config import load_settings, to_toml
from videomae2.limits import check_limits
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

Settings = TypeVar("Settings")
Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]
Flag = Annotated[bool, Parameter(negative="")]

SETTINGS: dict[str, type] = {
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "evaluate": EvaluateSettings,
}
"""Which settings each of these commands takes; `--help` lists them."""


def pretrain(*tokens: Tokens, print_config: Flag = False) -> None:
    """Pre-train on unlabelled video with dual masking.

    Parameters
    ----------
    print_config
        Print the resolved settings as a TOML page and stop.
    """
    _run("pretrain", tokens, print_config)


def finetune(*tokens: Tokens, print_config: Flag = False) -> None:
    """Train a classifier from pre-trained weights (or from scratch); also post-pre-training on a labelled
    mix.

    Parameters
    ----------
    print_config
        Print the resolved settings as a TOML page and stop.
    """
    _run("finetune", tokens, print_config)


def evaluate(*tokens: Tokens, print_config: Flag = False) -> None:
    """Measure a classifier over several views of each video: top-1, top-5, per class, evaluated / failed /
    listed.

    Parameters
    ----------
    print_config
        Print the resolved settings as a TOML page and stop.
    """
    _run("evaluate", tokens, print_config)


def _run(command: str, tokens: Sequence[str], print_config: bool) -> None:
    settings: Any = settings_from(SETTINGS[command], tokens)
    if print_config:
        return _print(settings)
    from videomae2.api import jobs

    print(getattr(jobs, command)(settings))
    folder = settings.out if isinstance(settings, EvaluateSettings) else settings.run.out
    if folder:
        print(f"report: {Path(folder) / 'report.html'}", file=sys.stderr)


def settings_from(cls: type[Settings], tokens: Sequence[str]) -> Settings:
    """The page named by the first token, if it is no option, changed by the options after it."""
    has_page = bool(tokens) and not tokens[0].startswith("-")
    settings = load_settings(cls, Path(tokens[0]) if has_page else None, tokens[1:] if has_page else tokens)
    check_limits(settings)
    return settings


def _print(settings: Any) -> None:
    for line in _derived(settings):
        print(f"# {line}")
    print(to_toml(settings), end="")


def _derived(settings: Any) -> list[str]:
    """What follows from the settings without looking at any data."""
    from videomae2.architecture import token_grid
    from videomae2.engine.schedule import make_plan

    if isinstance(settings, EvaluateSettings):
        return [f"views of a video: {settings.data.test_clips} clips x {settings.data.test_crops} crops"]
    # The lengths need the manifest; what is read off this plan does not.
    optim = replace(settings.optim, length=1, warmup=0)
    plan = make_plan(optim, settings.run, num_rows=1, views=settings.data.repeated_views)
    return [
        f"grid: {token_grid(settings.model)}",
        f"one step of one process: {plan.videos_per_step} videos, {plan.videos_per_step * plan.views} clips",
        f"peak learning rate of one process: {plan.peak_lr:.6g} (base * {plan.effective_batch} / 256)",
    ]
