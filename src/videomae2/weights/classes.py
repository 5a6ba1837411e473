"""Classes of a head by their names: where names came from, which are the same, and whose class is whose.

The same class is "air drumming" in Kinetics, "air_drumming" as a folder and "Air drumming" in a table. A name
that a program made up from a number ("LABEL_3" of `transformers`) names nothing.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

from videomae2.bounds import shown
from videomae2.errors import UserError

Origin = Literal["none", "given", "generated"]
"""Where names came from: a person, a program that numbered the classes, or nowhere."""


def origin_of(names: Sequence[str]) -> Origin:
    """Where names came from, as far as they tell: LABEL_0, LABEL_1 ... are `transformers`' own.

    Plain numbers are given: folders are called so, and a set that lacks some of them is matched by name.
    """
    if not names:
        return "none"
    made_up = all(re.fullmatch(r"(label|class)[ _]?[0-9]+", name, re.IGNORECASE) for name in names)
    return "generated" if made_up else "given"


def same_name(first: str, second: str) -> bool:
    """Whether two names mean one class: runs of spaces and underscores are alike, and so are both cases."""
    return _caseless(first) == _caseless(second)


def match_classes(own: Sequence[str], theirs: Sequence[str]) -> tuple[int, ...]:
    """For each name of `theirs` (a data set), the number of its class among `own` (a network's).

    The same spelling wins, then one that differs in spaces and underscores, then one that differs in case
    too. UserError where a name has no class, several, or another name's.
    """
    levels: list[Callable[[str], str]] = [str, _spaced, _caseless]
    tables = [_numbers_by(level, own) for level in levels]
    found: dict[int, str] = {}
    for name in theirs:
        held: Sequence[int] = next(
            (table[level(name)] for level, table in zip(levels, tables, strict=True) if level(name) in table),
            (),
        )
        if not held:
            raise UserError(
                f"expected one of the network's {len(own)} classes ({_few(own)}), got the class "
                f"{shown(name)}; rename it, or leave its videos out"
            )
        if len(held) > 1:
            raise UserError(
                f"the class {shown(name)} may be {' or '.join(shown(own[number]) for number in held[:3])} of "
                "the network; spell it as one of them"
            )
        if held[0] in found:
            raise UserError(
                f"expected different classes, got {shown(found[held[0]])} and {shown(name)}, which are both "
                f"the network's {shown(own[held[0]])}; give them one name"
            )
        found[held[0]] = name
    return tuple(found)


def _numbers_by(level: Callable[[str], str], names: Sequence[str]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        numbers.setdefault(level(name), []).append(number)
    return numbers


def _spaced(name: str) -> str:
    # NFC: file systems of macOS write an accent as a character of its own.
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


def _caseless(name: str) -> str:
    return _spaced(name).casefold()


def _few(names: Sequence[str]) -> str:
    return ", ".join(name[:40] for name in names[:5]) + (", ..." if len(names) > 5 else "")
