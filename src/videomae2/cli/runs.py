"""The commands that take settings: every training task, and evaluate. Torch waits until one runs."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import App, Parameter

from videomae2.config import flatten, known_settings, load_settings, to_toml
from videomae2.options import parameter
from videomae2.recipes.tasks import TASKS
from videomae2.settings import EvaluateSettings
from videomae2.spelling import ALIASES

PRINT_CONFIG = ("--print-config", "--print_config")
HOW_TO_SET = (
    "Settings are the defaults below, changed by the page, changed by options such as --optim.base_lr 1e-3, "
    "--optim.betas 0.9 0.95, --data.flip or --data.no_flip. "
    'A duration is "30ep" epochs, "5%" of the run, or a number of optimizer steps.'
)


class SettingsCommand(NamedTuple):
    """A command whose page and options are settings, and the function of `api.jobs` that runs them."""

    settings: type[Any]
    summary: str
    job: str


def commands() -> dict[str, SettingsCommand]:
    """One row a command: every task of the table, and what is no task but takes settings."""
    tasks = {name: SettingsCommand(row.settings, row.summary, "train") for name, row in TASKS.items()}
    about = "Measure a classifier over several views of each video: top-1, top-5, per class."
    return tasks | {"evaluate": SettingsCommand(EvaluateSettings, about, "evaluate")}


def run(command: str, tokens: Sequence[str]) -> None:
    """Run a command on the tokens after its name: a page first, if any, then options. UserError for both."""
    options = [token for token in tokens if token not in PRINT_CONFIG]
    page = options.pop(0) if options and not options[0].startswith("-") else None
    settings: Any = load_settings(commands()[command].settings, page, options)
    if len(options) + (page is not None) < len(tokens):
        _print(settings)
        return
    from videomae2.api import jobs

    print(getattr(jobs, commands()[command].job)(settings))
    values = flatten(settings)
    folder = values.get("run.out") or values.get("out")
    if folder:
        print(f"report: {Path(folder) / 'report.html'}", file=sys.stderr)


def help_app(command: str) -> App:
    """What `--help` of a command shows: its page, its flags and every setting with default and meaning.

    Cyclopts draws it and finds the command by name; `main` gives the tokens to `run`, which Python users of
    `load_settings` share.
    """
    settings_type, summary, _ = commands()[command]

    known = known_settings(settings_type)
    about_page = "A TOML page of what differs, or a run's folder to replay it."
    about_print = "Print the resolved settings as a TOML page and stop."

    def shown(
        page: Annotated[str, Parameter(help=about_page, show_default=False)] = "",
        /,
        *,
        print_config: Annotated[bool, Parameter(help=about_print, negative="", show_default=False)] = False,
        settings: parameter(settings_type, known) = settings_type(),  # type: ignore[valid-type]  # noqa: B008
    ) -> None: ...

    short = ", ".join(f"--{name} is --{key}" for name, key in ALIASES.items() if key in known)
    return App(
        name=command,
        default_command=shown,
        help=f"{summary}\n\n{HOW_TO_SET}",
        help_format="markdown",  # docstrings have several lines; as plain text their breaks would stay
        help_epilogue=f"Short: {short}." if short else None,
        usage=f"Usage: videomae2 {command} [PAGE.toml | RUN] [--SECTION.KEY VALUE ...]",
    )


def _print(settings: Any) -> None:
    for line in _derived(settings):
        print(f"# {line}")
    print(to_toml(settings), end="")


def _derived(settings: Any) -> list[str]:
    """What follows from the settings without looking at any data."""
    from videomae2.architecture import token_grid
    from videomae2.engine.schedule import make_plan

    if not hasattr(settings, "optim"):
        return [f"views of a video: {settings.data.test_clips} clips x {settings.data.test_crops} crops"]
    # The lengths need the manifest; what is read off this plan does not.
    optim = replace(settings.optim, length=1, warmup=0)
    plan = make_plan(optim, settings.run, num_rows=1, views=settings.data.repeated_views)
    return [
        f"grid: {token_grid(settings.model)}",
        f"one step of one process: {plan.videos_per_step} videos, {plan.videos_per_step * plan.views} clips",
        f"peak learning rate of one process: {plan.peak_lr:.6g} (base * {plan.effective_batch} / 256)",
    ]
