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

Origin = Literal["none", "given", "folder", "generated"]
"""Where names came from: nowhere, a person, class folders, or a program that numbered the classes."""


def origin_of(names: Sequence[str]) -> Origin:
    """Where names came from, as far as they tell: LABEL_0, LABEL_1 ... are `transformers`' own.

    Plain numbers are given: folders are called so, and a set that lacks some of them is matched by name.
    """
    if not names:
        return "none"
    made_up = all(re.fullmatch(r"(label|class)[ _]?[0-9]+", name, re.IGNORECASE) for name in names)
    return "generated" if made_up else "given"


def are_numbers(names: Sequence[str]) -> bool:
    """Whether all of some names are numbers, as class folders may be called."""
    return bool(names) and all(re.fullmatch(r"[0-9]+", name) for name in names)


def numbers_of(theirs: Sequence[str], own: Sequence[str], count: int, origin: str) -> tuple[int, ...]:
    """For each class of a data set, by its name, the number of that class in a network of `count` classes.

    The network calls them `own`, names that came from `origin`. One without names, or whose names only count
    its classes, is asked by number where the data set's names are numbers, and else taken in the order of the
    data set's names, if that has as many. UserError where names do not say which class is which.
    """
    counted = [str(number) for number in range(count)]
    if own and list(own) != counted:
        if origin == "generated" and not set(theirs) <= set(own):
            raise UserError(
                f"the network calls its {len(own)} classes {own[0]}, {own[-1]} and the like, which does not "
                f"say which of them is {shown(theirs[0])}; where the videos' classes, sorted, are the "
                "network's in this order, add --match order"
            )
        return match_classes(own, theirs)
    if are_numbers(theirs):
        return match_classes(counted, theirs)
    if len(theirs) != count:
        raise UserError(
            f"expected the {count} classes of a network that has no names for them, got {len(theirs)} named "
            f"classes ({_few(theirs)}), and no way to tell which is which; label the videos with the "
            "network's numbers, or add --match order where theirs, sorted, are the network's first classes"
        )
    return tuple(range(count))


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
