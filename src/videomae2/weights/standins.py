"""Stand-ins for the classes that training programs pickle beside tensors, so that none of them is needed.

A name in a pickle is an instruction to import and call. Under a stand-in the name is only a label: the real
class or function is neither imported nor called, and what it would have held is forgotten.
"""

import argparse
import re
from collections import OrderedDict
from typing import Any

import numpy as np


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
