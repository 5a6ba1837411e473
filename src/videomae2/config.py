"""Typed configuration: dataclass defaults <- a TOML page of differences <- `--dotted.key value` from the
command line.

Cyclopts draws the commands, but it rebuilds a nested dataclass from its class and so forgets the defaults a
command sets for it (`PretrainSettings.data` has four repeated views, `DataSettings` one). Here changes are
laid over those.
"""

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from videomae2.errors import UserError

Settings = TypeVar("Settings")

ALIASES = {"out": "run.out", "seed": "run.seed", "device": "run.device", "optim.lr": "optim.base_lr"}
"""Short names on the command line, for commands that have the long one and no key of the short name."""


class Difference(NamedTuple):
    """One key whose values differ between two settings."""

    key: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.first!r} and {self.second!r}"


def load_settings(
    cls: type[Settings], page: str | Path | None = None, overrides: Sequence[str] = ()
) -> Settings:
    """Settings of a command: its defaults, changed by the TOML page, changed by command-line tokens.

    `page` may also be a run's folder, whose `config.toml` is then read. `overrides` are tokens such as
    `["--optim.betas", "0.9", "0.95", "--data.no_flip"]`. UserError: unknown key, wrong type, missing or
    malformed page.
    """
    settings = cls()
    if page is not None:
        settings = _change(settings, _read_page(settings, _page_text(Path(page)), str(page)))
    return _change(settings, _read_line(settings, overrides))


def from_toml(cls: type[Settings], text: str, source: str = "the page") -> Settings:
    """Settings from TOML text; keys it does not name keep their defaults. UserError as for a page named
    `source`.
    """
    settings = cls()
    return _change(settings, _read_page(settings, text, source))


def to_toml(settings: Any) -> str:
    """All settings as TOML that `from_toml` reads back to an equal object. An absent key is None."""
    import tomli_w

    return tomli_w.dumps(_table(settings))


def flatten(settings: Any) -> dict[str, Any]:
    """Dotted key -> value, in the order of declaration: {"model.name": "vit_b16", ...}."""
    return {key: value for key, _, value in walk(settings)}


def differences(first: Any, second: Any) -> list[Difference]:
    """The keys on which two settings of one class differ, with both values."""
    other = flatten(second)
    return [
        Difference(key, value, other.get(key))
        for key, value in flatten(first).items()
        if value != other.get(key)
    ]


def walk(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, type, value) of every setting, sections opened depth first."""
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from walk(value, f"{key}.")
        else:
            yield key, hints[field.name], value


def expectation(kind: Any) -> str:
    """A type in a user's words: "a number", "one of dense, segments"."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return f"{len(typing.get_args(kind))} numbers"
    if _is_union(kind):
        return " or ".join(
            expectation(part) for part in sorted(typing.get_args(kind), key=lambda part: part is str)
        )
    return {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "none",
    }[kind]


def _change(settings: Settings, changes: dict[str, Any]) -> Settings:
    """The same settings with some dotted keys changed; every other default stays the command's own."""
    if not changes:
        return settings
    replaced: dict[str, Any] = {}
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        prefix = f"{field.name}."
        inner = {key.removeprefix(prefix): value for key, value in changes.items() if key.startswith(prefix)}
        if inner:
            replaced[field.name] = _change(getattr(settings, field.name), inner)
        elif field.name in changes:
            replaced[field.name] = changes[field.name]
    return dataclasses.replace(settings, **replaced)  # type: ignore[type-var]


def _table(settings: Any) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            table[field.name] = _table(value)
        elif value is not None:
            table[field.name] = list(value) if isinstance(value, tuple) else value
    return table


def _page_text(page: Path) -> str:
    path = page / "config.toml" if page.is_dir() else page
    if not path.is_file():
        what = "is a folder without a config.toml" if page.is_dir() else "does not exist"
        raise UserError(
            f"the settings page {page} {what}; give a .toml file, or a run's folder, as the first argument"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the settings page {path} cannot be read as UTF-8 text: {error}") from error


def _read_page(settings: Any, text: str, source: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source} is not valid TOML: {error}") from error
    kinds = {key: kind for key, kind, _ in walk(settings)}
    return {key: _typed(kinds[key], value, key, source) for key, value in _dotted(table, kinds, source)}


def _dotted(
    table: dict[str, Any], kinds: dict[str, Any], source: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    sections = _sections(kinds)
    for name, value in table.items():
        key = f"{prefix}{name}"
        if key in sections:
            if not isinstance(value, dict):
                raise UserError(
                    f"{source}: {key} is {value!r}, but it is a section; write [{key}] and its keys below it"
                )
            yield from _dotted(value, kinds, source, f"{key}.")
        elif key in kinds:
            yield key, value
        else:
            raise _unknown(key, kinds, source)


def _read_line(settings: Any, tokens: Sequence[str]) -> dict[str, Any]:
    kinds = {key: kind for key, kind, _ in walk(settings)}
    changes: dict[str, Any] = {}
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if not token.startswith("--"):
            raise UserError(
                f"{token!r} came where an option was expected; options look like --{next(iter(kinds))} VALUE"
            )
        name, equals, attached = token[2:].partition("=")
        following = (
            [attached]
            if equals
            else list(takewhile(lambda value: not value.startswith("--"), tokens[position + 1 :]))
        )
        key, negated = _resolve(name, kinds)
        taken, value = (0, False) if negated else _take(kinds[key], following, key)
        if negated and equals:
            raise UserError(f"{token} takes no value; write --{key}=true or --{key}=false")
        changes[key] = value
        position += 1 + (0 if equals else taken)
    return changes


def _resolve(name: str, kinds: dict[str, Any]) -> tuple[str, bool]:
    """The key an option's name means, and whether it is its `no_` form."""
    key = name.replace("-", "_")
    if key not in kinds and ALIASES.get(key) in kinds:
        key = ALIASES[key]
    if key in kinds:
        return key, False
    section, _, last = key.rpartition(".")
    positive = f"{section}.{last.removeprefix('no_')}" if section else last.removeprefix("no_")
    if last.startswith("no_") and kinds.get(positive) is bool:
        return positive, True
    raise _unknown(name, kinds, "the command line")


def _take(kind: Any, following: list[str], key: str) -> tuple[int, Any]:
    """How many of the tokens after an option are its value, and that value."""
    if kind is bool and (not following or following[0].lower() not in ("true", "false")):
        return (0, True) if not following else (1, _typed(kind, following[0], key, "the command line"))
    if not following:
        raise UserError(f"--{key} needs a value: {expectation(kind)}")
    if typing.get_origin(kind) is tuple:
        parts = [part for token in following for part in token.split(",") if part]
        return len(following), _typed(kind, [_number(part) for part in parts], key, "the command line")
    return 1, _typed(kind, _parse(kind, following[0]), key, "the command line")


def _parse(kind: Any, text: str) -> Any:
    """A token as the value its setting's type asks for; text that does not fit is left for `_typed` to
    refuse.
    """
    choices = set(typing.get_args(kind)) if _is_union(kind) else {kind}
    if types.NoneType in choices and text.lower() == "none":
        return None
    if bool in choices and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return _number(text) if choices & {int, float} else text


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _typed(kind: Any, value: Any, key: str, source: str) -> Any:
    """The value, if it is what the setting's type allows: whole numbers serve as numbers, lists as tuples."""
    for choice in typing.get_args(kind) if _is_union(kind) else (kind,):
        if typing.get_origin(choice) is Literal and value in typing.get_args(choice):
            return value
        if choice is float and type(value) in (int, float) and math.isfinite(value):
            return float(value)
        if typing.get_origin(choice) is tuple and isinstance(value, list | tuple):
            parts = typing.get_args(choice)
            if len(parts) == len(value) and all(type(part) in (int, float) for part in value):
                return tuple(float(part) for part in value)
        if choice is not float and isinstance(choice, type) and type(value) is choice:
            return value
    raise UserError(f"{source}: {key} is {value!r}, but it takes {expectation(kind)}")


def _unknown(name: str, kinds: dict[str, Any], source: str) -> UserError:
    wanted = name.replace("-", "_")
    inside = [key for key in kinds if key.startswith(f"{wanted}.")]
    if inside:
        return UserError(f"{source}: {name} is a section; set one of its keys, such as {inside[0]}")
    last = wanted.rpartition(".")[2]
    by_last = {key.rpartition(".")[2]: key for key in kinds}
    near = difflib.get_close_matches(wanted, kinds, n=1) or [key for key in kinds if key.endswith(f"_{last}")]
    near = near or [by_last[match] for match in difflib.get_close_matches(last, by_last, n=1)]
    advice = (
        f"did you mean {near[0]}?"
        if near
        else f"the sections are {', '.join(sorted(_sections(kinds)))}; see --help"
    )
    return UserError(f"{source}: unknown setting {name}; {advice}")


def _sections(kinds: dict[str, Any]) -> set[str]:
    return {key.rpartition(".")[0] for key in kinds if "." in key}


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union)
