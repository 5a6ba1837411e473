"""What a stranger's pickle may do, nothing: stand-ins for its classes, and a look at its instructions.

A name in a pickle is an instruction to import and call. Under a stand-in the name is only a label: the real
class or function is neither imported nor called, and what it would have held is forgotten. The instructions
are looked at before any is carried out: a tuple of twice the same tuple of twice the same tuple, forty levels
deep, has a few hundred bytes in a file and, as the key of a dict, takes hours to hash.
"""

import argparse
import pickletools
import re
from collections import OrderedDict
from io import BufferedIOBase
from typing import IO, Any, cast

import numpy as np

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


class Inert:
    """Stands in for a class or function whose content nobody needs: takes anything, does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Inert":
        """Take any arguments."""
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Forget it."""


class InertDict:
    """Stands in for a stranger's kind of dict, into which a pickle then puts its entries."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        """An ordinary one, the only kind that torch's reader fills."""
        return OrderedDict(_args[0]) if _args and isinstance(_args[0], dict) else OrderedDict()


class InertList:
    """As `InertDict`, for lists."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        """An ordinary one."""
        return list(_args[0]) if _args and isinstance(_args[0], list | tuple) else []


# Each entry: what is called, and the name it goes by in the file (NumPy 2 moved `core` to `_core`). NumPy's
# scalars are real: the arguments of released runs hold them.
ALLOWED: tuple[Any, ...] = (
    argparse.Namespace,
    np.dtype,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
)

_PROGRAMS = re.compile(
    r"^(accelerate|addict|apex|box|deepspeed|easydict|fairscale|fvcore|hydra|lightning|lightning_fabric|"
    r"lightning_utilities|mmaction|mmcv|mmdet|mmengine|mmpretrain|numpy|omegaconf|pytorch_lightning|timm|"
    r"torchmetrics|torchvision|transformers|yacs|"
    r"collections|datetime|decimal|enum|fractions|pathlib|typing|uuid|"
    r"torch\.(optim|utils|amp|cuda\.amp|nn|distributed|ao|torch_version))\."
)
"""Programs that train video models, and parts of Python and torch that their checkpoints name."""

# Under its stand-in even getattr calls nothing: MMEngine pickles its methods by it.
_PLAIN_NAMES = "bool bytes dict float frozenset getattr int list object range slice str tuple"
_PLAIN = {f"builtins.{name}" for name in _PLAIN_NAMES.split()} | {
    "copyreg._reconstructor",
    "functools.partial",
}
"""What pickles of their objects name besides."""

_DICTS = re.compile(r"(^collections\.defaultdict|Dict|\.AttributeDict|\.CfgNode|\.Box)$")
_LISTS = re.compile(r"(^collections\.deque|List)$")


def stand_in(name: str) -> Any:
    """What is to be called in place of the name, or None where weights have no business naming it."""
    if name not in _PLAIN and not _PROGRAMS.match(name):
        return None
    return InertDict if _DICTS.search(name) else InertList if _LISTS.search(name) else Inert
