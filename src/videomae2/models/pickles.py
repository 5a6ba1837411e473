"""Tensors out of files that strangers wrote: `.pth` pickles that are never executed, and safetensors.

A pickle is a program. torch's restricted reader runs only the few instructions that rebuild tensors and plain
containers; what published checkpoints also hold (an argparse Namespace, NumPy scalars, MMEngine's log buffers) is
allowed by name and nothing else is.
"""

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from videomae2.errors import UserError


class Inert:
    """Stands in for a stranger's class whose content nobody needs: takes any state, does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Each entry: what is called, and the name it goes by in the file (NumPy 2 moved `core` to `_core`).
_ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    (Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
    (Inert, "mmengine.logging.message_hub.MessageHub"),
]


def read_pickle(path: Path) -> Any:
    """The object in a torch `.pth`/`.bin` file, built from tensors and plain containers only; nothing is executed.

    Tensors of zip-format files are memory-mapped. Raises UserError where the file is truncated, is no checkpoint, or
    names a class or function that reading weights does not need (the way a malicious pickle runs code).
    """
    _check_not_empty(path)
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from error
    except Exception as error:  # a damaged pickle can fail in any opcode, with any exception
        raise UserError(_damaged(path, error)) from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a `.safetensors` file and its metadata; UserError where it is truncated or no such file."""
    _check_not_empty(path)
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError) as error:
        raise UserError(_damaged(path, error)) from error


def _check_not_empty(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no weights file {path}; give a .safetensors or .pth file, a folder, or a hub name")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes); fetch it again")


def _refusal(path: Path, reason: str) -> str:
    named = re.search(r"(?:Unsupported global: GLOBAL|GLOBAL|class|function) [`'\"]?([A-Za-z_][\w.]*\.[\w.]*\w)", reason)
    if named is None:
        return _damaged(path, reason)
    return (
        f"{path} names {named.group(1)}, which reading weights does not need and which could run code; nothing in it was "
        f"executed. Get the file from a source you trust as .safetensors, or save its state dict alone and try again"
    )


def _damaged(path: Path, error: object) -> str:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return (
        f"{path} ({path.stat().st_size:,} bytes) is truncated or is no checkpoint ({first_line}); compare its size with the "
        f"source's and fetch it again"
    )
