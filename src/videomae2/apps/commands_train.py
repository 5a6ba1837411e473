"""The commands that take a page of settings: pretrain, finetune, evaluate. Torch is imported only when one runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

from videomae2.config import load_settings, to_toml
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings

Settings = TypeVar("Settings")
Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]
Flag = Annotated[bool, Parameter(negative="")]

SETTINGS: dict[str, type] = {"pretrain": PretrainSettings, "finetune": FinetuneSettings, "evaluate": EvaluateSettings}
"""Which settings each of these commands takes; `--help` lists them."""


def pretrain(*tokens: Tokens, print_config: Flag = False) -> None:
    """Pre-train on unlabelled video with dual masking.

    Parameters
    ----------
    print_config
        Print the resolved settings as a TOML page and stop.
    """
    settings = settings_from(PretrainSettings, tokens)
    if print_config:
        return _print(settings)
    from videomae2.recipes.pretrain import run_pretraining

    run_pretraining(settings)


def finetune(*tokens: Tokens, print_config: Flag = False) -> None:
    """Train a classifier from pre-trained weights (or from scratch); also post-pre-training on a labelled mix.

    Parameters
    ----------
    print_config
        Print the resolved settings as a TOML page and stop.
    """
    settings = settings_from(FinetuneSettings, tokens)
    if print_config:
        return _print(settings)
    from videomae2.recipes.finetune import run_finetuning

    run_finetuning(settings)


def evaluate(*tokens: Tokens, print_config: Flag = False) -> None:
    """Measure a classifier over several views of each video: top-1, top-5, per class, evaluated / failed / listed.

    Parameters
    ----------
    print_config
        Print the resolved settings as a TOML page and stop.
    """
    settings = settings_from(EvaluateSettings, tokens)
    if print_config:
        return _print(settings)
    from videomae2.recipes.evaluate import run_evaluation

    run_evaluation(settings)


def settings_from(cls: type[Settings], tokens: Sequence[str]) -> Settings:
    """The page named by the first token, if it is no option, changed by the options after it."""
    has_page = bool(tokens) and not tokens[0].startswith("-")
    return load_settings(cls, Path(tokens[0]) if has_page else None, tokens[1:] if has_page else tokens)


def _print(settings: Any) -> None:
    print(to_toml(settings), end="")
