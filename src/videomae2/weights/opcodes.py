"""A look at a pickle's instructions before any is carried out, for values that take too long to hash.

A tuple of twice the same tuple of twice the same tuple, forty levels deep, has a few hundred bytes in a file
and, as the key of a dict, takes hours to hash.
"""

import pickletools
from io import BufferedIOBase
from typing import IO, cast

from videomae2.errors import UserError

MOST_LEAVES = 1_000_000
"""Values inside one tuple, shared ones counted each time: far more than any tuple of a checkpoint has."""

_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ", "BINPERSID"}
"""Instructions whose result is hashed by hashing what they take."""


def check_sharing(stream: BufferedIOBase, source: object) -> None:
    """Refuse a pickle whose tuples share their parts so often that hashing one takes more than a second.

    Only the stack's sizes are followed. What is no pickle, or is cut off, is left for its reader to refuse.
    """
    sizes: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], stream)):
            name = opcode.name
            if name == "MARK":
                marks.append(len(sizes))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[int(argument or 0)] = sizes[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                sizes.append(memo.get(int(argument or 0), 1))
            else:
                before = opcode.stack_before
                from_mark = pickletools.markobject in before
                start = marks.pop() if from_mark else len(sizes) - len(before)
                # What stands before the mark, such as the dict to be filled, is taken and given back.
                taken = sizes[start:]
                keeps = len(before) - 2 if from_mark and before[0] is not pickletools.markobject else 0
                del sizes[max(0, start - max(0, keeps)) :]
                leaves = max(1, sum(taken)) if name in _TUPLES else 1
                if leaves > MOST_LEAVES:
                    raise UserError(
                        f"{source} holds a tuple of over {MOST_LEAVES:,} values that are a few values "
                        "many times over; save its state dict alone and try again"
                    )
                sizes += [leaves] * len(opcode.stack_after)
    except UserError:
        raise
    except Exception:  # a damaged pickle can fail in any instruction
        return
