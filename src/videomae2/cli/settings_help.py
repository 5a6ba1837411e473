"""The settings of a command as help text: each section with its keys, defaults and the docstrings of
`settings.py`.
"""

import ast
import inspect
import shutil
import textwrap
import typing
from typing import Any, Literal

from videomae2 import settings as declarations
from videomae2.config import ALIASES, expectation, walk


def settings_help(defaults: Any, width: int | None = None) -> str:
    """Every setting of `defaults` (a settings object), one paragraph each, under a heading for its
    section.
    """
    width = width or min(shutil.get_terminal_size((100, 24)).columns, 120)
    docs = _docstrings()
    owners = {"": type(defaults).__name__} | {
        name: kind.__name__ for name, kind in typing.get_type_hints(type(defaults)).items()
    }
    keys = sorted(walk(defaults), key=lambda item: "." in item[0])
    lines: list[str] = []
    heading = None
    for key, kind, value in keys:
        section, _, name = key.rpartition(".")
        if section != heading:
            heading = section
            about = docs.get((owners[section], "")) if section else None
            lines += ["", f"{section or 'settings'}:" + (f"  {about}" if about else "")]
        lines += _entry(key, kind, value, docs.get((owners[section], name), ""), width)
    aliases = [
        f"--{short} is --{key}" for short, key in ALIASES.items() if key in {key for key, _, _ in keys}
    ]
    if aliases:
        lines += ["", "short:  " + ", ".join(aliases)]
    return "\n".join([_preamble(width), *lines])


def _preamble(width: int) -> str:
    text = (
        "Settings are the defaults below, changed by the TOML page (the first argument: a file, or a run's "
        "folder to replay "
        "it), changed by options such as --optim.base_lr 1e-3, --optim.betas 0.9 0.95, --data.flip or "
        "--data.no_flip. "
        'A duration is "30ep" epochs, "5%" of the run, or a number of optimizer steps.'
    )
    return textwrap.fill(text, width)


def _entry(key: str, kind: Any, value: Any, about: str, width: int) -> list[str]:
    shown = (
        " ".join(map(str, value))
        if isinstance(value, tuple)
        else {True: "true", False: "false"}.get(value, value)
    )
    if isinstance(value, int | float) and not isinstance(value, bool):
        shown = f"{value:g}"
    takes = f" ({expectation(kind)})" if typing.get_origin(kind) is Literal else ""
    default = "none" if value is None else f'"{shown}"' if shown == "" else shown
    head = f"  --{key}  [{default}]{takes}"
    return [head, *textwrap.wrap(about, width, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _docstrings() -> dict[tuple[str, str], str]:
    """(class, attribute) -> the string written below the attribute; attribute "" is the class's own first
    line.
    """
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(declarations)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        found[node.name, ""] = (ast.get_docstring(node) or "").partition("\n")[0]
        for before, after in zip(node.body, node.body[1:], strict=False):
            is_text = (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            )
            if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and is_text:
                found[node.name, before.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return found
