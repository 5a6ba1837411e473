"""Raw tensors out of files that strangers wrote: `.pth` pickles that are never executed, and safetensors.

A pickle is a program. torch's restricted reader runs only the few instructions that rebuild tensors and plain
containers; what published checkpoints also hold (an argparse Namespace, NumPy scalars, MMEngine's log
buffers) is allowed by name and nothing else is.
"""

import argparse
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from videomae2.bounds import shown
from videomae2.errors import UserError
from videomae2.weights.fetch import FOLDER_FILES, shard_names

_NESTS = ("model", "module", "state_dict", "model_state_dict")
"""Where tensors are: in the released code (`model`, DeepSpeed's `module`), MMEngine, home-made scripts; in
this order.
"""


@dataclass(frozen=True)
class RawWeights:
    """Tensors under whatever names their file has, and what came along.

    config, preprocessor: config.json and preprocessor_config.json beside them. metadata: of a safetensors
    file. extras: a pickle's other entries.
    """

    tensors: dict[str, Tensor]
    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    preprocessor: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    def argument(self, name: str) -> Any:
        """What the command line that trained a released checkpoint said for `name`, or None."""
        arguments = self.extras.get("args")
        if isinstance(arguments, argparse.Namespace):
            return getattr(arguments, name, None)
        return arguments.get(name) if isinstance(arguments, Mapping) else None


def read_raw(path: Path) -> RawWeights:
    """Read a file, or a folder as `transformers` saves one; UserError where it holds no state dict."""
    if not path.is_dir():
        return _read_file(path)
    file = next((file for file in FOLDER_FILES if (path / file).exists()), None)
    if file is None:
        raise UserError(
            f"the folder {path} holds none of {', '.join(FOLDER_FILES)}; name the weights file itself"
        )
    if not file.endswith(".index.json"):
        return _read_file(path / file)
    shards = [_read_file(path / shard) for shard in shard_names(path / file)]
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        twice = next((name for name in shard.tensors if name in tensors), None)
        if twice is not None:
            raise UserError(
                f"expected each tensor in one shard, got {shown(twice)} in two of {path}; fetch it again"
            )
        tensors |= shard.tensors
    if not shards:
        raise UserError(f"{path / file} lists no shards; fetch the folder again")
    return replace(shards[0], tensors=tensors, path=path)


class Inert:
    """Stands in for a stranger's class whose content nobody needs: takes any state, does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Inert":
        """Take any arguments."""
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Forget it."""


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
    """The object in a torch `.pth` or `.bin` file, of tensors and plain containers; nothing is executed.

    Tensors of zip-format files are memory-mapped. UserError where the file is truncated, is no checkpoint, or
    names a class or function that reading weights does not need (the way a malicious pickle runs code).
    """
    start = _start(path)
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise UserError(_damaged(path, "its end is missing"))
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickle protocols it then refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, start, str(error))) from error
    except Exception as error:  # a damaged pickle can fail in any opcode, with any exception
        raise UserError(_damaged(path, error)) from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a `.safetensors` file and its metadata; UserError where it is truncated or none."""
    _start(path)
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(_damaged(path, error)) from error


def _read_file(path: Path) -> RawWeights:
    config, preprocessor = (
        _read_config(path.parent / name) for name in ("config.json", "preprocessor_config.json")
    )
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        return RawWeights(tensors, path, config, preprocessor, metadata)
    tensors, extras = _unwrap(read_pickle(path), path)
    return RawWeights(tensors, path, config, preprocessor, extras=extras)


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict inside a checkpoint, however deep it is nested, and the entries beside it."""
    extras: dict[str, Any] = {}
    while isinstance(content, Mapping):
        tensors = {
            n: value for n, value in content.items() if isinstance(n, str) and isinstance(value, Tensor)
        }
        nest = next((name for name in _NESTS if isinstance(content.get(name), Mapping)), None)
        if nest is None:
            if not tensors:
                break
            return tensors, extras | {name: value for name, value in content.items() if name not in tensors}
        extras |= {n: value for n, value in content.items() if n != nest and not isinstance(value, Tensor)}
        content = content[nest]
    raise UserError(
        f"{path} holds no state dict (looked under {', '.join(_NESTS)}); save the model's state_dict() and "
        "give that file"
    )


def _read_config(path: Path) -> dict[str, Any]:
    """config.json beside the weights; empty where there is none or it is somebody else's."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); mend it, or move the weights away from it"
        ) from error
    return config if isinstance(config, dict) else {}


def _start(path: Path) -> bytes:
    """The first bytes of a file that is there, may be read, and is not empty."""
    if not path.is_file():
        raise UserError(
            f"there is no weights file {path}; give a .safetensors or .pth file, a folder, or a hub name"
        )
    try:
        with path.open("rb") as opened:
            start = opened.read(16)
    except OSError as error:
        raise UserError(
            f"{path} could not be read: {error.strerror or error}; check who may read it"
        ) from error
    if not start:
        raise UserError(f"{path} is empty (0 bytes); fetch it again")
    return start


def _refusal(path: Path, start: bytes, reason: str) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", reason)
    # torch itself writes pickle protocol 2; a bare pickle of a later one is some other program's object.
    foreign = start[:1] == b"\x80" and start[1] > 2
    if named is None and not foreign:
        return _damaged(path, reason.rpartition("WeightsUnpickler error:")[2])
    what = f"names {named.group(1).rstrip('.')}" if named else "is a plain Python pickle"
    return (
        f"{path} {what}, which reading weights does not need and which could run code; nothing in it was "
        "executed. Get the file as .safetensors or from a source you trust, or save its state dict alone and "
        "try again"
    )


def _damaged(path: Path, error: object) -> str:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".")
    return (
        f"{path} ({path.stat().st_size:,} bytes) is truncated or is no checkpoint ({first_line}); compare "
        "its size with the source's and fetch it again"
    )
