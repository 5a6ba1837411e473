"""Raw tensors out of files that strangers wrote: `.pth` pickles that are never executed, and safetensors.

A pickle is a program. torch's restricted reader runs only the few instructions that rebuild tensors and plain
containers. What checkpoints hold besides (an argparse Namespace, log buffers, callbacks) is read as nothing
where it is of a known program, and refused elsewhere.
"""

import argparse
import contextlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from videomae2.bounds import shown
from videomae2.errors import UserError
from videomae2.weights.fetch import FOLDER_FILES, is_file, quoted, read_json, shard_names, there
from videomae2.weights.normalisation import check_extent
from videomae2.weights.standins import ALLOWED, check_sharing, stand_in

_NESTS = ("model", "module", "state_dict", "model_state_dict")
"""Where tensors are: in the released code (`model`, DeepSpeed's `module`), MMEngine, home-made scripts; in
this order.
"""
MOST_NAMES, MOST_NESTS = 200, 16
"""Far more names of other programs, and deeper nests, than any checkpoint has."""


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
    file = next((file for file in FOLDER_FILES if there(path / file)), None)
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


def read_pickle(path: Path) -> Any:
    """The object in a torch `.pth`, `.ckpt` or `.bin` file: tensors, plain containers; nothing is executed.

    Tensors of zip-format files are memory-mapped. UserError where the file is truncated, is no checkpoint, or
    names a class or function that reading weights does not need (the way a malicious pickle runs code).
    """
    start = _start(path)
    zipped = zipfile.is_zipfile(path)
    if start.startswith(b"PK") and not zipped:
        raise UserError(_damaged(path, "its end is missing"))
    if zipped:
        _check_entries(path)
    _check_sharing(path, zipped)
    allowed = list(ALLOWED)
    # torch's reader stops at the first name it does not know. Each pass adds a stand-in for that one.
    for _ in range(MOST_NAMES):
        try:
            return _read_allowed(path, allowed, zipped)
        except pickle.UnpicklingError as error:
            named = _named(str(error))
            replacement = stand_in(named) if named else None
            if replacement is None:
                raise UserError(_refusal(path, start, str(error))) from error
            allowed.append((replacement, named))
        except Exception as error:  # a damaged pickle can fail in any opcode, with any exception
            raise UserError(_damaged(path, error)) from error
    raise UserError(
        f"{path} names over {MOST_NAMES} classes of other programs; save its state dict alone and try again"
    )


def _read_allowed(path: Path, allowed: list[Any], zipped: bool) -> Any:
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings(), _encodable(path) as file:
        warnings.simplefilter("ignore")  # torch warns of pickle protocols it then refuses
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)


def _check_entries(path: Path) -> None:
    """Refuse a zip whose entries are compressed or lie beyond its end: torch writes neither.

    Compressed ones expand a thousandfold, and memory-mapping finds no tensor in them.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as opened:
            entries = opened.infolist()
    except Exception as error:  # the directory at the end is damaged, in whichever way
        raise UserError(_damaged(path, error)) from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.header_offset + entry.file_size > size:
            raise UserError(_damaged(path, f"its entry {quoted(entry.filename)} is not stored as torch does"))


def _check_sharing(path: Path, zipped: bool) -> None:
    """Refuse pickles whose reading would not end in reasonable time, before any is read."""
    if not zipped:
        with path.open("rb") as stream:
            # torch's older format: magic number, version, system, content, names of storages; then values.
            for _ in range(5):
                check_sharing(stream, path)
        return
    try:
        with zipfile.ZipFile(path) as opened:
            contents = [opened.read(entry) for entry in opened.namelist() if entry.endswith(".pkl")]
    except Exception as error:  # damaged: a wrong checksum, an entry that is not where it should be
        raise UserError(_damaged(path, error)) from error
    for content in contents:
        check_sharing(io.BytesIO(content), path)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a `.safetensors` file and its metadata; UserError where it is truncated or none."""
    _start(path)
    try:
        with _encodable(path) as file, safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(_damaged(path, error)) from error


@contextlib.contextmanager
def _encodable(path: Path) -> Iterator[str]:
    """A name of the file that is valid UTF-8, which native readers ask for and file systems do not."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as opened:
            yield f"/dev/fd/{opened.fileno()}"
    else:
        yield str(path)


def _read_file(path: Path) -> RawWeights:
    config, preprocessor = (
        _read_config(path.parent / name) for name in ("config.json", "preprocessor_config.json")
    )
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        return RawWeights(tensors, path, config, preprocessor, metadata)
    tensors, extras = _unwrap(read_pickle(path), path)
    check_extent(tensors, path.stat().st_size, path)
    return RawWeights(tensors, path, config, preprocessor, extras=extras)


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict inside a checkpoint, however deep it is nested, and the entries beside it."""
    extras: dict[str, Any] = {}
    for _ in range(MOST_NESTS):  # a dict may hold itself
        if not isinstance(content, Mapping):
            break
        tensors = {
            n: value for n, value in content.items() if isinstance(n, str) and isinstance(value, Tensor)
        }
        nest = _nest(content, tensors)
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


def _nest(content: Mapping[Any, Any], tensors: Mapping[str, Tensor]) -> Any:
    """The entry that holds the state dict: a usual name, or any whose tensors have a patch embedding."""
    usual = next((name for name in _NESTS if isinstance(content.get(name), Mapping)), None)
    if usual is not None or tensors:
        return usual
    return next(
        (
            name
            for name, held in content.items()
            if isinstance(held, Mapping)
            and any(isinstance(inner, str) and "patch_embed" in inner for inner in held)
        ),
        None,
    )


def _read_config(path: Path) -> dict[str, Any]:
    """A configuration beside the weights; empty where there is none or it is somebody else's."""
    if not is_file(path):
        return {}
    config = read_json(path)
    return config if isinstance(config, dict) else {}


def _start(path: Path) -> bytes:
    """The first bytes of a file that is there, may be read, and is not empty."""
    if not is_file(path):
        if there(path):
            raise UserError(
                f"expected a file of weights, got the folder, device or pipe {quoted(path)}; give a "
                ".safetensors or .pth file"
            )
        raise UserError(
            f"there is no weights file {quoted(path)}; give a .safetensors or .pth file, a folder, or a "
            "hub name"
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


def _named(reason: str) -> str:
    """The class or function at which torch's reader stopped; empty where it stopped at something else.

    It leaves `builtins.` away.
    """
    found = re.search(r"GLOBAL ([\w.]+)", reason)
    if found is None:
        return ""
    name = found[1].rstrip(".")
    return name if "." in name else f"builtins.{name}"


def _refusal(path: Path, start: bytes, reason: str) -> str:
    named = _named(reason)
    # torch itself writes pickle protocol 2; a bare pickle of a later one is some other program's object.
    foreign = start[:1] == b"\x80" and start[1] > 2
    if not named and not foreign:
        return _damaged(path, reason.rpartition("WeightsUnpickler error:")[2])
    what = f"names {quoted(named)}" if named else "is a plain Python pickle"
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
