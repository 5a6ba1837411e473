"""The commands that take settings (every task, and evaluate), and those that look at weights and data.

Torch and other heavy imports wait until a command runs.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from cyclopts import App, Parameter

from videomae2.bounds import ALIASES, Between, shown
from videomae2.config import flatten, known_settings, preset_names, resolve, take_preset, to_toml
from videomae2.engine.launch import rank_of_environment
from videomae2.errors import UserError
from videomae2.files import must_be_new
from videomae2.options import parameter
from videomae2.recipes.tasks import TASKS
from videomae2.settings import DataSettings, EvaluateSettings, LocalizeSettings, ModelSettings

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
LISTS = (".csv", ".tsv", ".txt", ".parquet", ".arrow", ".feather", ".mp4", ".avi", ".mkv", ".mov", ".webm")
"""What people name first, and is no page: endings of weights; of lists, and of videos."""
PRINT_CONFIG = ("--print-config", "--print_config")
HOW_TO_SET = (
    "Settings are the defaults below, changed by the preset, changed by the page, changed by options such as "
    "--optim.base_lr 1e-3, --optim.betas 0.9 0.95, --data.flip or --data.no_flip. "
    'A duration is "30ep" epochs, "5%" of the run, or a number of optimizer steps.'
)


PRESETS_ABOUT = "tiny is for a laptop's CPU, small for one GPU, paper for a cluster"


class SettingsCommand(NamedTuple):
    """A command whose page and options are settings, and the function of `api.jobs` that runs them."""

    settings: type[Any]
    summary: str
    job: str


def commands() -> dict[str, SettingsCommand]:
    """One row a command: every task of the table, and what is no task but takes settings."""
    tasks = {name: SettingsCommand(row.settings, row.summary, "train") for name, row in TASKS.items()}
    about = "Measure a classifier over several views of each video: top-1, top-5, per class."
    check = (
        "Tell what windows show from their features alone: neighbours and a linear layer, before a detector."
    )
    return tasks | {
        "evaluate": SettingsCommand(EvaluateSettings, about, "evaluate"),
        "features-check": SettingsCommand(LocalizeSettings, check, "check_features"),
    }


def run(command: str, tokens: Sequence[str]) -> None:
    """Run a command on the tokens after its name: a page first, if any, then options. UserError for both."""
    kind = commands()[command].settings
    preset, options = take_preset(kind, [token for token in tokens if token not in PRINT_CONFIG])
    page = options.pop(0) if options and not options[0].startswith("-") else None
    if page is not None:
        must_be_page(command, page)
    settings, sources = resolve(kind, page, options, preset)
    if not set(PRINT_CONFIG).isdisjoint(tokens):
        if not rank_of_environment():
            _print(settings, sources)
        return
    from videomae2.api import jobs

    done = getattr(jobs, commands()[command].job)(settings)
    if rank_of_environment():  # of several processes one speaks
        return
    print(done)
    values = flatten(settings)
    folder = values.get("run.out") or values.get("out")
    if folder and (Path(folder) / "report.html").is_file():
        print(f"report: {Path(folder) / 'report.html'}", file=sys.stderr)


def must_be_page(command: str, page: str) -> None:
    """UserError, with the option that was likely meant, where the first word is weights, a run or videos."""
    name = shown(page)[1:-1]
    advice = f"use videomae2 {command} {'--weights' if command == 'evaluate' else '--init'} {name}"
    try:
        what = _what_is(command, Path(page))
    except OSError:  # a name that no file can have
        return
    if what == "weights":
        raise UserError(f"expected a page of settings, got the weights {name}; {advice}")
    if what == "videos":
        given = "--data.val" if command == "evaluate" else "--data.train"
        raise UserError(
            f"expected a page of settings, or a run's folder, got {name}, which holds no config.toml; for "
            f"the videos in it, use videomae2 {command} {given} {name}"
        )
    if what == "nothing":
        raise UserError(
            f"the settings page {name} does not exist; give a .toml file or a run's folder, or for the "
            f"weights of that name {advice}"
        )
    if what:
        raise UserError(
            f"expected a page of settings, or a run of {command} to replay, got {name}, a run of {what}; for "
            f"its weights, {advice}"
        )


def _what_is(command: str, path: Path) -> str:
    """What a first word is that is no page: weights, videos, nothing, or the command of a run; else empty."""
    if path.suffix == ".toml":
        return ""
    if path.name.endswith(WEIGHTS) or "@" in path.name or (path / "state.json").is_file():
        return "weights"
    if (path / "config.toml").is_file():
        with (path / "config.toml").open(encoding="utf-8", errors="replace") as file:
            of = file.readline().strip().rpartition(" run of ")[2]
        kinds = {row.settings.__name__: name for name, row in commands().items()}
        return kinds.get(of, "") if of != commands()[command].settings.__name__ else ""
    if path.is_dir() or path.name.lower().endswith(LISTS):
        return "videos"
    return "" if path.exists() else "nothing"


def help_app(command: str) -> App:
    """What `--help` of a command shows: its page, its flags and every setting with default and meaning.

    Cyclopts draws it and finds the command by name; `main` gives the tokens to `run`, which Python users of
    `load_settings` share.
    """
    settings_type, summary, _ = commands()[command]

    known = known_settings(settings_type)
    about_page = "A TOML page of what differs, or a run's folder to replay it."
    about_preset = f"Settings for a machine: {PRESETS_ABOUT}; here: {', '.join(preset_names(settings_type))}."
    about_print = "Print the resolved settings as a TOML page, with where each came from, and stop."

    def shown(
        page: Annotated[str, Parameter(help=about_page, show_default=False)] = "",
        /,
        *,
        preset: Annotated[str, Parameter(help=about_preset, show_default=False)] = "",
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
        usage=f"Usage: videomae2 {command} [PAGE.toml | RUN] [--preset NAME] [--SECTION.KEY VALUE ...]",
    )


def _print(settings: Any, sources: Mapping[str, str]) -> None:
    for line in _derived(settings):
        print(f"# {line}")
    if getattr(settings, "init", ""):
        print(f"# where the network of {settings.init} differs from a default below, it is the network's")
    print("# a value without a comment is the default")
    print(to_toml(settings, sources), end="")


def _derived(settings: Any) -> list[str]:
    """What follows from the settings without looking at any data."""
    from videomae2.architecture import token_grid
    from videomae2.engine.schedule import make_plan

    if not hasattr(settings, "optim"):
        return [f"views of a video: {settings.data.test_clips} clips x {settings.data.test_crops} crops"]
    # The lengths need the manifest; what is read off this plan does not.
    optim = replace(settings.optim, length=1, warmup=0)
    plan = make_plan(optim, settings.run, num_rows=1, views=getattr(settings.data, "repeated_views", 1))
    return [
        *([f"grid: {token_grid(settings.model)}"] if isinstance(settings.model, ModelSettings) else []),
        f"one step of one process: {plan.videos_per_step} videos, {plan.videos_per_step * plan.views} clips",
        f"peak learning rate of one process: {plan.peak_lr:.6g} (base * {plan.effective_batch} / 256)",
    ]


ListFormat = Literal["auto", "pretrain", "video", "frames"]
FRAME_PATTERN = DataSettings.frame_pattern


def weights_app() -> App:
    """`videomae2 weights`."""
    app = App(name="weights", help="Look into checkpoints and convert them between layouts.")
    app.command(show_weights, name="show")
    app.command(convert_weights, name="convert")
    return app


def data_app() -> App:
    """`videomae2 data`."""
    app = App(
        name="data", help="Look at a manifest, a file list or a folder, and check that its videos decode."
    )
    app.command(show_data, name="show")
    app.command(check_data, name="check")
    return app


def show_weights(file: str, /) -> None:
    """Say what a checkpoint holds: layout, kind, size, classes, every tensor.

    Parameters
    ----------
    file
        A .safetensors, .pth or .bin file, a run's folder (finished or not), or a hub name.
    """
    from videomae2.recipes.weights import read_weights
    from videomae2.weights.describe import describe

    print(describe(read_weights(file)))


def convert_weights(
    source: str,
    target: Path,
    /,
    *,
    layout: Literal["released", "transformers", "ours"],
    label_map: Path | None = None,
) -> None:
    """Write a checkpoint in another layout.

    Parameters
    ----------
    source
        A .safetensors, .pth or .bin file, a run's folder (finished or not), or a hub name.
    target
        The file (released, ours) or folder (transformers) to write.
    layout
        Whose names and file format to write.
    label_map
        A JSON list of old class numbers, one for each new class, to slice the head.
    """
    from videomae2.recipes.weights import read_weights
    from videomae2.weights.describe import convert

    must_be_new(target)
    checkpoint = convert(read_weights(source), target, layout, label_map=label_map)
    print(f"wrote {target} in the {layout} layout: {checkpoint.sketch}, {len(checkpoint.state)} tensors")


def show_data(
    path: str,
    /,
    *,
    root: str = "",
    rows: Annotated[int, Between(0, 10**9)] = 10,
    list_format: ListFormat = "auto",
    frame_pattern: str = FRAME_PATTERN,
    first_label: Annotated[int, Between(0, 10**6)] = 0,
) -> None:
    """Show what a manifest, file list or folder is read as: counts, classes, first rows.

    Parameters
    ----------
    path
        A manifest, a released list file, a folder of class folders, or a folder of videos.
    root
        Folder that relative paths start from.
    rows
        How many rows to print.
    list_format
        What two numbers after each path of a released list are: pretrain (start total), video or frames
        (total label).
    frame_pattern
        How raw frames are named, where a released list names folders.
    first_label
        The number of the first class, where labels are numbers.
    """
    from videomae2.data.tables.inspect import show

    how = _as_listed(root, list_format, frame_pattern, first_label)
    print(show(path, how, rows))


def check_data(
    path: str,
    /,
    *,
    root: str = "",
    workers: Annotated[int, Between(1, 1024)] = 2,
    list_format: ListFormat = "auto",
    frame_pattern: str = FRAME_PATTERN,
    first_label: Annotated[int, Between(0, 10**6)] = 0,
) -> int:
    """Decode every file and name the broken ones; the last line reads `N files, N readable, N broken`.

    Parameters
    ----------
    path
        A manifest, a released list file, a folder, or one video.
    root
        Folder that relative paths start from.
    workers
        Threads that decode.
    list_format
        What two numbers after each path of a released list are: pretrain (start total), video or frames
        (total label).
    frame_pattern
        How raw frames are named, where a released list names folders.
    first_label
        The number of the first class, where labels are numbers.
    """
    from videomae2.data.file_names import shown_path
    from videomae2.data.tables.inspect import check

    how = _as_listed(root, list_format, frame_pattern, first_label)
    if broken := check(path, how, workers):
        raise UserError(
            f"{broken} of the files of {shown_path(path)} cannot be read, as said above; fetch or make them "
            "again, or take them off the list"
        )
    return 0


def _as_listed(root: str, list_format: ListFormat, frame_pattern: str, first_label: int) -> DataSettings:
    return DataSettings(
        root=root, list_format=list_format, frame_pattern=frame_pattern, first_label=first_label
    )
