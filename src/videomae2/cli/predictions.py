"""`videomae2 predict`: name what happens in video files, as a table or as one JSON object a line."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from videomae2.api.model import Prediction, load
from videomae2.engine.device import keep_freed_memory, precision_note
from videomae2.engine.progress import say
from videomae2.errors import UserError


def print_predictions(
    files: Sequence[Path],
    weights: str,
    *,
    as_json: bool = False,
    top: int = 5,
    clips: int = 5,
    crops: int = 3,
    device: str = "auto",
    precision: str = "fp32",
) -> None:
    """Print the best classes of each file. A file that cannot be read is named where its answer would be.

    UserError, after all files were tried, if any could not be read.
    """
    model = load(weights, device=device, precision=precision)
    if model.device.type == "cpu":
        keep_freed_memory()
        if note := precision_note(model.device, precision, "--precision"):
            say(note)
    failed = []
    for file in files:
        try:
            found = model.predict(file, top, clips, crops)
        except UserError as error:
            if len(files) == 1:
                raise
            failed.append(file)
            reason = str(error).removeprefix(f"{file}: ")
            print(
                json.dumps({"file": str(file), "error": reason})
                if as_json
                else f"{file}\n  could not be read: {reason}"
            )
            continue
        print(as_line(file, found) if as_json else as_table(file, found))
    if failed:
        raise UserError(f"{len(failed)} of {len(files)} files could not be read; the first is {failed[0]}")


def as_line(file: Path, found: Sequence[Prediction]) -> str:
    """One JSON object: the file and its classes, best first."""
    return json.dumps(
        {"file": str(file), "predictions": [asdict(each) for each in found]}, ensure_ascii=False
    )


def as_table(file: Path, found: Sequence[Prediction]) -> str:
    """The file, and a line for each class with a bar as long as its score."""
    width = max(len(each.name) for each in found)
    lines = [
        f"  {each.name:<{width}}  {100 * each.score:5.1f} %  {'█' * round(30 * each.score)}".rstrip()
        for each in found
    ]
    return "\n".join([str(file), *lines])
