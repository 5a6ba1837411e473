"""Many tensor names in few words, none left out: a branch as `decoder.*`, the same tensor of all blocks as
`blocks.0-11`.
"""

import re
from collections.abc import Collection, Sequence

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def grouped(names: Sequence[str], others: Collection[str] = ()) -> list[str]:
    """The names, shortened so that each still follows from what is printed.

    A branch becomes `branch.* (count)` where it holds several of the names and none of `others`, which share
    the tree.
    """
    branches: dict[str, int] = {}
    for name in names:
        found = _branch(name, others)
        branches[found] = branches.get(found, 0) + 1
    alone = {_branch(name, others): name for name in names}
    return folded_blocks(
        [f"{branch} ({count})" if count > 1 else alone[branch] for branch, count in branches.items()]
    )


def _branch(name: str, others: Collection[str]) -> str:
    """The largest branch around a name that none of the others grows on, as `branch.*`; the name itself where
    there is none.
    """
    words = name.split(".")
    for depth in range(1, len(words)):
        stem = ".".join(words[:depth]) + "."
        if not any(other.startswith(stem) for other in others):
            return f"{stem}*"
    return name


def folded_blocks(lines: Sequence[str]) -> list[str]:
    """Lines that differ only in the number of a block become one, with the range of numbers."""
    numbers: dict[str, list[int]] = {}
    for line in lines:
        found = _BLOCK.search(line)
        stem = _BLOCK.sub("blocks.{}.", line, count=1)
        numbers.setdefault(stem, []).extend([int(found[1])] if found else [])
    each = {
        stem: re.sub(r"\((\d+)\)$", r"(\1 each)", stem) if len(found) > 1 else stem
        for stem, found in numbers.items()
    }
    return [each[stem].replace("{}", _ranges(found), 1) for stem, found in numbers.items()]


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
