"""Settings of a command: defaults < preset < TOML page < `--dotted.key value` options; the later wins.

And back: settings as TOML, as a flat table, as differences.
"""

import dataclasses
import os
import stat
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from videomae2.bounds import SHOWN, key_of, meant_key, shown, unknown
from videomae2.errors import UserError
from videomae2.options import Setting, named_keys, read_options
from videomae2.settings import BROUGHT_BY_WEIGHTS

Settings = TypeVar("Settings")


class Difference(NamedTuple):
    """One key whose values differ between two settings."""

    key: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.first!r} and {self.second!r}"


class Resolved(NamedTuple):
    """Settings, and where each that is not at its default came from, by dotted key."""

    settings: Any
    sources: Mapping[str, str]


def load_settings(
    cls: type[Settings], page: str | Path | None = None, overrides: Sequence[str] = (), preset: str = ""
) -> Settings:
    """Settings of a command: its defaults, changed by a preset, by the TOML page, by command-line tokens.

    `page` may also be a run's folder, whose `config.toml` is then read. `overrides` are tokens such as
    `["--optim.betas", "0.9", "0.95", "--data.no_flip"]`, `--preset tiny` among them. UserError: an unknown
    key or preset, a value that its type or its bounds do not allow, a missing or malformed page.
    """
    settings: Settings = resolve(cls, page, overrides, preset).settings
    return settings


def resolve(
    cls: type[Any],
    page: str | Path | None = None,
    overrides: Sequence[str] = (),
    preset: str = "",
    given: Mapping[str, Any] | None = None,
) -> Resolved:
    """As `load_settings`, with the source of each setting. `given` are keywords of a call (`by_key`)."""
    known = known_settings(cls)
    chosen, tokens = take_preset(cls, overrides)
    chosen = chosen or preset
    values = {} if page is None else _values(known, _page_text(Path(page)), str(page))
    if page is not None and Path(page).is_dir():
        if chosen:
            raise UserError(
                f"expected a page or a preset, got the run {page}, which sets everything, and preset "
                f"{shown(chosen)}; leave out one of them"
            )
        if "run.out" in known:
            # The folder that is named is the run, also where it was moved since its page was written.
            values["run.out"] = str(page)
    called = by_key(known, given or {})
    values |= called
    below = _values(known, preset_text(cls, chosen), f"preset {chosen}") if chosen else {}
    settings = read_options(cls, known, below | values, tokens)
    if getattr(settings, "init", ""):
        # A preset's network is for those who start from nothing: weights bring their own.
        below = {key: value for key, value in below.items() if key not in BROUGHT_BY_WEIGHTS}
        settings = read_options(cls, known, below | values, tokens)
    sources = dict.fromkeys(below, f"preset {chosen}") | dict.fromkeys(values, str(page))
    sources |= dict.fromkeys(called, "call")
    return Resolved(settings, sources | dict.fromkeys(named_keys(tokens, known), "line"))


def by_key(known: Mapping[str, Setting], given: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a Python call as values by dotted key, each of its setting's type and within its bounds.

    A keyword is a setting without its section (`base_lr`), a short name (`train`, `out`), or a section with a
    dict of its settings (`optim={"length": "30ep"}`); `model` may be a network's name. UserError, with the
    nearest name, for one that is none of these.
    """
    values: dict[str, Any] = {}
    sections = {key.rpartition(".")[0] for key in known} - {""}
    for name, value in given.items():
        if name in sections and isinstance(value, Mapping):
            values |= by_key(known, {f"{name}.{key}": each for key, each in value.items()})
            continue
        is_name = name == "model" and isinstance(value, str)
        if name in sections and not is_name:
            raise UserError(f"{name} is a section; give a dict of its settings, got {shown(value)}")
        key = "model.name" if is_name else _key_of_keyword(name, known)
        values[key] = known[key].take(os.fspath(value) if isinstance(value, os.PathLike) else value)
    return values


def _key_of_keyword(name: str, known: Mapping[str, Setting]) -> str:
    """The setting that a keyword means: by its whole name, a short one, or its last word where one has it."""
    key = key_of(name, known)
    if key in known:
        return key
    ending = [each for each in known if each.rpartition(".")[2] == name]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise UserError(f"{name} is a setting of several sections; give one of {', '.join(ending)} as a dict")
    meant = meant_key(name, known)
    if meant is None:
        raise unknown(name, known, "in the call")
    section, _, last = meant.rpartition(".")
    raise UserError(
        f"unknown setting {shown(name)[1:-1]} in the call; did you mean {last}"
        + (f" (of {section})?" if section else "?")
    )


# ---- presets: pages that are installed with the package

PRESETS = Path(__file__).parent / "presets"
"""A folder for each command; in it, a page for each size of machine."""


def preset_names(cls: type) -> list[str]:
    """The presets of a command, smallest machine first."""
    found = [page.stem for page in (PRESETS / _command(cls)).glob("*.toml")]
    order = ["tiny", "small", "paper"]
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def preset_text(cls: type, name: str) -> str:
    """A preset's page; UserError, with the names there are, for one that does not exist."""
    names = preset_names(cls)
    if name not in names:
        raise UserError(
            f"unknown preset {shown(name)} of {_command(cls)}; "
            + (f"choose from {', '.join(names)}" if names else "it has none")
        )
    return (PRESETS / _command(cls) / f"{name}.toml").read_text(encoding="utf-8")


def _command(cls: type) -> str:
    """The command of a settings class: PretrainSettings is pretrain's."""
    return cls.__name__.removesuffix("Settings").lower()


def take_preset(cls: type, tokens: Sequence[str]) -> tuple[str, list[str]]:
    """The last `--preset` among the tokens, if any, and the other tokens."""
    chosen, rest, left = "", [], list(tokens)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name != "--preset":
            rest.append(f"{name}{equals}{value}")
            continue
        if not equals:
            value = left.pop(0) if left and not left[0].startswith("-") else ""
        if not value:
            raise UserError(f"--preset needs a name: one of {', '.join(preset_names(cls)) or 'none'}")
        chosen = value
    return chosen, rest


def from_toml(cls: type[Settings], text: str, source: str = "the page") -> Settings:
    """Settings from TOML text; keys it does not name keep their defaults.

    UserError as for a page named `source`.
    """
    known = known_settings(cls)
    return read_options(cls, known, _values(known, text, source), ())


def to_toml(settings: Any, sources: Mapping[str, str] | None = None) -> str:
    """All settings as TOML that `from_toml` reads back to an equal object. An absent key is None.

    With `sources` (see `resolve`) a comment says where each value that is not a default came from.
    """
    import tomli_w

    text = tomli_w.dumps(_table(settings))
    return text if sources is None else "".join(_with_sources(text, sources))


def _with_sources(text: str, sources: Mapping[str, str]) -> Iterator[str]:
    section = ""
    for line in text.splitlines(keepends=True):
        if line.startswith("["):
            section = f"{line.strip().strip('[]')}."
        # A value of several lines, a tuple, has its comment after the opening bracket.
        source = sources.get(section + line.partition(" = ")[0]) if line[0] not in " ]" else None
        yield f"{line.rstrip()}  # {source}\n" if source else line


def check(settings: Any) -> None:
    """Refuse settings made in Python that hold what their types or bounds do not allow.

    UserError names the key, what was expected and what came. Pages and lines are checked as they are read.
    """
    known = known_settings(type(settings))
    for key, _, value in walk(settings):
        known[key].take(value)


PATHS = ("data.train", "data.val", "data.root", "init", "weights", "label_map", "run.out", "out")
"""Settings that may name a file or folder on this machine."""


def with_absolute_paths(settings: Settings) -> Settings:
    """The same settings with every path to something on this machine made absolute.

    A page with them replays its run from any working directory. URLs, hub names and what is not there stay as
    they are.
    """
    changes: dict[str, Any] = {}
    for key, value in flatten(settings).items():
        if key in PATHS and value and "://" not in value and (key == "run.out" or _is_here(value)):
            changes[key] = os.path.abspath(value)  # noqa: PTH100 - Path.resolve would follow links
    changed: Settings = _replaced(settings, changes)
    return changed


def _is_here(name: str) -> bool:
    """Whether a path, or the run in RUN@best, is on this machine."""
    return os.path.lexists(name) or os.path.lexists(name.rpartition("@")[0])


def _replaced(settings: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
    """A copy of settings with other values under some dotted keys."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        key, value = f"{prefix}{field.name}", getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            fields[field.name] = _replaced(value, changes, f"{key}.")
        elif key in changes:
            fields[field.name] = changes[key]
    return dataclasses.replace(settings, **fields)


def known_settings(cls: type) -> Mapping[str, Setting]:
    """Every setting of a command by dotted key, with its type, its bounds and the command's default."""
    return {key: Setting(key, kind, value) for key, kind, value in walk(cls())}


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
    """(dotted key, type with its bounds, value) of every setting, sections opened depth first."""
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from walk(value, f"{key}.")
        else:
            yield key, hints[field.name], value


def _table(settings: Any) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            table[field.name] = _table(value)
        elif value is not None:
            table[field.name] = list(value) if isinstance(value, tuple) else value
    return table


MOST_BYTES = 1 << 20
"""A page of every setting has some kilobytes."""


def _page_text(page: Path) -> str:
    name = str(page)[:SHOWN]
    try:
        path = page / "config.toml" if page.is_dir() else page
        # Looked at before it is opened: a pipe would be waited for, a device read, without end.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"the settings page {name} is no file; give a .toml file, or a run's folder")
        if status.st_size > MOST_BYTES:
            raise UserError(
                f"expected a settings page of at most {MOST_BYTES:,} bytes, got {status.st_size:,} in {name}"
            )
        return path.read_text(encoding="utf-8")
    except UserError:
        raise
    except FileNotFoundError:
        what = "is a folder without a config.toml" if page.is_dir() else "does not exist"
        raise UserError(
            f"the settings page {name} {what}; give a .toml file, or a run's folder, as the first argument"
        ) from None
    except OSError as error:
        raise UserError(f"the settings page {name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"the settings page {name} cannot be read as UTF-8 text: {error}") from error


def _values(known: Mapping[str, Setting], text: str, source: str) -> dict[str, Any]:
    """The page's values by dotted key, each of its setting's type and within its bounds."""
    where = f"in {source}"
    return {key: known[key].take(value, where) for key, value in _dotted(_parsed(text, source), known, where)}


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source} is not valid TOML: {error}") from error
    except RecursionError:
        raise UserError(f"{source} is nested too deep; settings are [section] and key = value") from None
    except ValueError as error:  # Python reads at most some thousand digits of a number
        raise UserError(f"{source} is not a page of settings: {error}") from error


def _dotted(
    table: dict[str, Any], known: Mapping[str, Setting], where: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    sections = {key.rpartition(".")[0] for key in known} - {""}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if key in sections and isinstance(value, dict):
            yield from _dotted(value, known, where, f"{key}.")
        elif key in sections:
            raise UserError(
                f"{key} {where}: expected a section, got {shown(value)}; write [{key}] and its keys below"
            )
        elif key in known:
            yield key, value
        else:
            raise unknown(key, known, where)
