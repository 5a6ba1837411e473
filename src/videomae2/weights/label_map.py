"""Which old class each new class was: the files that slice a 710-class head to 400, 600 or 700 classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videomae2.errors import UserError


def read_label_map(label_map: str | Path | Sequence[int], num_old: int) -> list[int]:
    """Old class numbers, one for each new class in order, checked against a head of `num_old` classes.

    A file is JSON: a list of old class numbers (released `misc/label_710to400.json`), or an object from new
    class numbers (or class names, taken in their order) to old ones. Raises UserError naming the entry that
    is wrong.
    """
    entries = list(label_map) if not isinstance(label_map, str | Path) else _read(Path(label_map))
    if not entries:
        raise UserError(
            f"the label map {_name(label_map)} is empty; it needs one old class number for each new class"
        )
    for new, old in enumerate(entries):
        if not isinstance(old, int) or isinstance(old, bool) or not 0 <= old < num_old:
            raise UserError(
                f"the label map {_name(label_map)} sends class {new} to {old!r}, but the checkpoint's head "
                "has classes "
                f"0 to {num_old - 1}; give a map made for this checkpoint"
            )
    return entries


def _read(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"there is no label map file {path}; give a JSON list of old class numbers"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"the label map {path} is not readable JSON ({error}); give a JSON list of old class numbers"
        ) from error
    if isinstance(content, list):
        return content
    if isinstance(content, dict):
        return _from_object(content, path)
    raise UserError(
        f"the label map {path} holds a {type(content).__name__}; give a JSON list of old class numbers"
    )


def _from_object(content: dict[str, Any], path: Path) -> list[Any]:
    if not all(name.isdecimal() for name in content):
        return list(content.values())
    numbered = {int(name): old for name, old in content.items()}
    if sorted(numbered) != list(range(len(content))):
        raise UserError(
            f"the label map {path} does not number its new classes 0 to {len(content) - 1}; fill the gaps"
        )
    return [numbered[new] for new in range(len(numbered))]


def _name(label_map: str | Path | Sequence[int]) -> str:
    return str(label_map) if isinstance(label_map, str | Path) else "given"
