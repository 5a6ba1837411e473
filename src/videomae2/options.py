"""Settings as options of a command line, `--optim.base_lr 1e-4`, which cyclopts reads and lays over a page's.

Four things we do ourselves, because cyclopts cannot do them as users need them:

- A page keeps TOML's types: cyclopts would make text of them first, and "224" would pass for 224.
- An option takes all words up to the next one: cyclopts would read the `false` of `--data.flip false` as an
  argument of its own, and would not split `--optim.betas 0.9,0.95`.
- Numbers are taken as written: cyclopts rounds `--optim.length 1.5` to 2.
- Errors name the key, where it stands, what was expected and what to try.
"""

import dataclasses
import functools
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from videomae2.bounds import (
    choices,
    expectation,
    fit,
    from_words,
    is_text,
    key_of,
    meant_choice,
    shown,
    unknown,
)
from videomae2.errors import UserError

if TYPE_CHECKING:
    from cyclopts import App, ArgumentCollection, CycloptsError, Token

Settings = TypeVar("Settings")

LINE = "on the command line"
BETWEEN_WORDS = "\x1f"
"""Joins the words that follow one option: a control character that nobody types."""


class Setting(NamedTuple):
    """What is known of one setting: dotted key, type with the bounds beside it, default if any."""

    key: str
    kind: Any
    default: Any

    def take(self, value: Any, where: str = "") -> Any:
        """`value` as this setting holds it.

        UserError, saying `where` the value stands, if the type or a bound refuses it.
        """
        try:
            return fit(self.kind, value)
        except ValueError as error:
            name = f"{self.key} {where}".rstrip()
            raise UserError(f"{name}: {error}; {self._advice(value)}") from None

    def _advice(self, value: Any) -> str:
        near = meant_choice(value, choices(self.kind))
        if near:
            return f"did you mean {near}?"
        if isinstance(value, str) and _fits(self.kind, from_words(self.kind, [value])):
            return "write it without quotes"
        if isinstance(value, str) and not is_text(value):
            return "settings are kept as UTF-8 text; rename it, or give a link to it"
        if isinstance(value, list) and not isinstance(self.default, tuple):
            return "give one value"
        if self.kind is str and isinstance(value, int | float):
            return "write it in quotes"
        if self.default is dataclasses.MISSING:
            return "--help says more"
        return f"try {spelled(self.default)}, the default"


def read_options(
    cls: type[Settings], known: Mapping[str, Setting], page: Mapping[str, Any], tokens: Sequence[str]
) -> Settings:
    """Settings of `cls`: its defaults, changed by the page's values (by dotted key), changed by the tokens.

    UserError for a token that is no setting of `known`, or brings a value that the setting does not take.
    """
    from cyclopts import App, CycloptsError

    def read(*, settings: parameter(cls, known) = cls()) -> Settings:  # type: ignore[valid-type]  # noqa: B008
        return settings  # type: ignore[no-any-return]

    app = App(
        default_command=read,
        help_flags=(),
        version_flags=(),
        end_of_options_delimiter="",
        config=functools.partial(_lay_under, page),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
    )
    try:
        return app(_join_words(tokens, known))  # type: ignore[no-any-return]
    except CycloptsError as error:
        raise _explained(error, known) from None


def parameter(cls: type, known: Mapping[str, Setting]) -> Any:
    """The annotation of a cyclopts parameter that takes each of the `known` settings of `cls` as an option.

    It also names the sections of `--help`.
    """
    from cyclopts import Group, Parameter

    for section, kind in typing.get_type_hints(cls).items():
        # Decorated from here, so that `settings` needs no cyclopts: loader processes import it, too.
        if dataclasses.is_dataclass(kind) and "__cyclopts__" not in vars(kind):
            about = (kind.__doc__ or "").partition("\n\n")[0]
            Parameter(group=Group(section, help=about, sort_key=_place(section)))(kind)
    return Annotated[
        cls,
        Parameter(
            name="*",
            name_transform=str,  # underscores as in Python; cyclopts takes hyphens for them
            converter=functools.partial(_convert, known),
            n_tokens=1,  # `_join_words` makes one token of an option's words
            json_dict=False,
            json_list=False,
            allow_repeating=True,  # of two equal options the later counts
            negative_bool="",
            negative_iterable="",  # no --empty-optim.betas
            negative_none="",
            show_default=spelled,
        ),
    ]


def _place(section: str) -> int:
    """Where a section stands in --help: network and data first, what only one task has, then how it runs."""
    known = {"model": 0, "data": 1, "mask": 2, "target": 3, "optim": 5, "run": 6}
    return known.get(section, 4)


def spelled(value: Any) -> str:
    """A value as one types it on the line."""
    if isinstance(value, tuple):
        return " ".join(map(spelled, value))
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value) or '""'


def _join_words(tokens: Sequence[str], known: Mapping[str, Setting]) -> list[str]:
    """Every option as one token with the words that follow it: `--data.flip=false`."""
    joined: list[str] = []
    for token in tokens:
        if token.startswith("--"):
            joined.append(_in_full(token, known))
        elif joined:
            joined[-1] += f"{BETWEEN_WORDS if '=' in joined[-1] else '='}{token}"
        else:
            raise UserError(
                f"expected an option such as --{next(iter(known))} VALUE, got {shown(token)} {LINE}; "
                "a page of settings is the first argument"
            )
    return joined


def named_keys(tokens: Sequence[str], known: Mapping[str, Setting]) -> list[str]:
    """The settings that the tokens of a line set, by full name."""
    return [key_of(option[2:].partition("=")[0], known) for option in _join_words(tokens, known)]


def _in_full(option: str, known: Mapping[str, Setting]) -> str:
    """The option under its full name; `--data.no_flip` as `--data.flip=false`."""
    name, equals, value = option[2:].partition("=")
    key = key_of(name, known)
    section, dot, last = key.rpartition(".")
    positive = f"{section}{dot}{last.removeprefix('no_')}"
    # Not cyclopts' own negative flags: --help would list each of them beside its option.
    if key not in known and positive in known and known[positive].kind is bool:
        if equals:
            raise UserError(f"{option} takes no value; write --{positive}=true or --{positive}=false")
        return f"--{positive}=false"
    return f"--{key}{equals}{value}"


def _lay_under(
    page: Mapping[str, Any], _app: "App", _commands: tuple[str, ...], arguments: "ArgumentCollection"
) -> None:
    """Cyclopts' hook for other sources than the line: the page's values where the line says nothing."""
    from cyclopts import Token

    for argument in arguments:
        key = ".".join(argument.keys)
        if key in page and not argument.tokens:
            argument.append(Token(keyword=f"--{key}", implicit_value=page[key], source="page"))


def _convert(known: Mapping[str, Setting], _hint: Any, tokens: Sequence["Token"]) -> Any:
    """Cyclopts' converter: the words in an option's token as the value of its setting.

    The type that cyclopts hands over has lost its bounds, so the setting is found by name.
    """
    from cyclopts import UNSET

    token = tokens[0]
    if token.implicit_value is not UNSET:  # from the page, where it has its type already
        return token.implicit_value
    return _take((token.keyword or "").lstrip("-"), token.value, known)


def _take(name: str, words: str, known: Mapping[str, Setting]) -> Any:
    key = key_of(name, known)
    if key not in known:
        raise unknown(name, known, LINE)
    return known[key].take(from_words(known[key].kind, words.split(BETWEEN_WORDS)), LINE)


def _explained(error: "CycloptsError", known: Mapping[str, Setting]) -> UserError:
    """What went wrong on the line in our words."""
    from cyclopts import CoercionError, MissingArgumentError, UnknownOptionError

    if isinstance(error.__cause__, UserError):  # ours, raised in the converter
        return error.__cause__
    name = ".".join(error.argument.keys) if error.argument is not None else ""
    if isinstance(error, MissingArgumentError):
        if name in known:
            return UserError(f"--{name} needs a value: expected {expectation(known[name].kind)}")
        return unknown(name, known, LINE)
    token = getattr(error, "token", None)
    if isinstance(error, UnknownOptionError) and token is not None:
        name = (token.keyword or token.value).partition("=")[0]
        return unknown(name.lstrip("-") or name, known, LINE)
    if isinstance(error, CoercionError) and token is not None:  # a flag's value, which no converter sees
        try:
            _take(name, token.value, known)
        except UserError as ours:
            return ours
    return UserError(" ".join(str(error).split()))


def _fits(kind: Any, value: Any) -> bool:
    try:
        fit(kind, value)
    except ValueError:
        return False
    return True
