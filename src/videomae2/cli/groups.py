"""The commands in groups: `weights show` and `weights convert`, `data show` and `data check`.

Heavy imports wait until one runs.
"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from videomae2.bounds import Between
from videomae2.settings import DataSettings

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
    """
    from videomae2.data.tables.inspect import show

    print(show(path, DataSettings(root=root, list_format=list_format, frame_pattern=frame_pattern), rows))


def check_data(
    path: str,
    /,
    *,
    root: str = "",
    workers: Annotated[int, Between(1, 1024)] = 2,
    list_format: ListFormat = "auto",
    frame_pattern: str = FRAME_PATTERN,
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
    """
    from videomae2.data.tables.inspect import check

    return check(path, DataSettings(root=root, list_format=list_format, frame_pattern=frame_pattern), workers)
