"""Checkpoints: complete, written beside their place and renamed into it, read and re-shared by
torch.distributed.checkpoint.

checkpoints/step-N/ holds every tensor of the run (`model.*`, `ema.*`, `optimizer.*`) and state.json, which
names the step, the counters, and the size of each file, so that a damaged checkpoint is known before it is
read.
"""

import contextlib
import errno
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from videomae2.engine import parallel
from videomae2.engine.index import SafeReader
from videomae2.errors import UserError
from videomae2.files import write_atomically

STATE = "state.json"
_PREFIX = "step-"
_TEMPORARY = ".writing-"


def step_of(path: Path) -> int:
    """The step a checkpoint folder is named for."""
    return int(path.name.removeprefix(_PREFIX))


def checkpoints(folder: Path) -> list[Path]:
    """Every complete-looking checkpoint of a run's checkpoints folder, oldest first; temporary leftovers are
    not.
    """
    found = (path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit())
    return sorted(found, key=step_of)


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any], step: int) -> Path:
    """Write folder/step-N in one rename: tensors by flat name, and `state`, plain JSON.

    Every process of a group calls this; each writes its own shards. UserError when the disk is full or not
    writable: what was there before is untouched, and the part that was written is removed.
    """
    final, temporary = folder / f"{_PREFIX}{step}", folder / f"{_TEMPORARY}{step}"
    try:
        if parallel.is_main():
            sweep(folder)
            temporary.mkdir(parents=True)
        parallel.barrier()
        with _alone():
            save(tensors, storage_writer=FileSystemWriter(temporary), no_dist=not parallel.in_group())
        if parallel.is_main():
            sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
            write_atomically(
                temporary / STATE, json.dumps({"step": step, "files": sizes, **state}, indent=2) + "\n"
            )
            _publish(temporary, final)
        parallel.barrier()
    except (OSError, RuntimeError, CheckpointException) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _save_error(error, final) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def read_state(path: Path) -> dict[str, Any]:
    """The plain part of a checkpoint; UserError if the checkpoint is incomplete or damaged."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        files = state["files"].items()
        wrong = [
            name
            for name, size in files
            if not (path / name).is_file() or (path / name).stat().st_size != size
        ]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"checkpoint {path} is damaged: its {STATE} cannot be read ({error})") from error
    if wrong:
        raise UserError(
            f"checkpoint {path} is damaged: {', '.join(wrong)} is missing or has another size than was "
            "written"
        )
    return state


def latest(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of a checkpoints folder, with a warning for each damaged one passed
    over.

    None where there is none at all; UserError where all are damaged, since starting again would hide the
    loss.
    """
    damage: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            read_state(path)
        except UserError as error:
            damage.append(str(error))
            continue
        for line in damage:
            warnings.warn(f"{line}; going back to {path.name}", stacklevel=2)
        return path
    if damage:
        raise UserError(
            f"no usable checkpoint is left: {damage[0]}; remove {folder} to start the run again from its "
            "first step"
        )
    return None


def tensor_names(path: Path) -> dict[str, TensorStorageMetadata]:
    """Name -> shape and type of every tensor in a checkpoint."""
    with _readable(path):
        entries = SafeReader(path).read_metadata().state_dict_metadata
    return {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def load_tensors(path: Path, into: dict[str, Tensor]) -> None:
    """Fill tensors in place, by flat name, whole or sharded; those the checkpoint holds besides are left
    alone.

    UserError when a name is missing or has another shape (a checkpoint of another architecture), or a file is
    damaged.
    """
    there = tensor_names(path)
    missing = [name for name in into if name not in there]
    reshaped = [name for name in into if name in there and tuple(there[name].size) != tuple(into[name].shape)]
    if missing or reshaped:
        name = (missing or reshaped)[0]
        what = (
            "is not in it"
            if missing
            else f"is {list(there[name].size)} there and {list(into[name].shape)} here"
        )
        raise UserError(
            f"checkpoint {path} is of another architecture: {len(missing)} tensors are missing and "
            f"{len(reshaped)} have another "
            f"shape ({name} {what}); build the model with the settings of its run"
        )
    if into:
        with _readable(path), _alone():
            load(into, storage_reader=SafeReader(path), no_dist=not parallel.in_group())


def load_model_state(path: Path, which: str = "model") -> dict[str, Tensor]:
    """The weights of a checkpoint, or of the newest one of a run, on the CPU, by the task's own parameter
    names.

    `which` is "model" (trained) or "ema" (averaged). UserError if the checkpoint has no such weights or is
    damaged.
    """
    path = find(path)
    read_state(path)
    prefix = f"{which}."
    entries = {name: entry for name, entry in tensor_names(path).items() if name.startswith(prefix)}
    if not entries:
        raise UserError(f"checkpoint {path} holds no {which!r} weights; try which='model'")
    state = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    with _readable(path), _alone():
        load(state, storage_reader=SafeReader(path), no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def find(path: str | Path) -> Path:
    """The checkpoint a path means: itself, or the newest of a run or of a checkpoints folder. UserError if
    there is none.
    """
    path = Path(path)
    if (path / STATE).is_file():
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    newest = latest(folder)
    if newest is None:
        raise UserError(
            f"{path} holds no checkpoint; give a run's folder, or one of its checkpoints/{_PREFIX}N"
        )
    return newest


def sweep(folder: Path) -> None:
    """Remove what a process killed while it wrote or removed a checkpoint has left."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def keep(folder: Path, last: int, best_step: int | None) -> None:
    """Remove all but the newest `last` checkpoints and the best one, and what a killed process left."""
    if parallel.is_main():
        sweep(folder)
        for path in checkpoints(folder)[: -max(1, last)]:
            if step_of(path) != best_step:
                _remove(path)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        AttributeError,
        pickle.UnpicklingError,
        CheckpointException,
    ) as error:
        raise UserError(f"checkpoint {path} is damaged: {_reason(error)}") from error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Torch warns that it saves in a single process even where it was told to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _publish(temporary: Path, final: Path) -> None:
    _sync(temporary)
    if final.exists():
        _remove(final)
    temporary.rename(final)
    _sync(final.parent)


def _remove(path: Path) -> None:
    """Rename first, so that a checkpoint is never seen half removed."""
    gone = path.with_name(f"{_TEMPORARY}old-{path.name}")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _save_error(error: BaseException, final: Path) -> Exception:
    causes = [cause for cause in _chain(error) if isinstance(cause, OSError)]
    if not causes:  # nothing the user could mend
        return RuntimeError(f"checkpoint {final} could not be written: {_reason(error)}")
    free = shutil.disk_usage(final.parent).free / 2**20 if final.parent.is_dir() else 0
    before = checkpoints(final.parent)
    left = f"{before[-1].name} before it is untouched" if before else "there was none before it"
    full = any(cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes)
    what = "the disk is full" if full else _reason(causes[-1])
    return UserError(
        f"checkpoint {final} could not be written: {what} ({free:.0f} MB free); {left}; "
        f"make room and run the same command to go on"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, what it came from, and what other processes reported."""
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None:
            yield current
            pending += [current.__cause__, current.__context__]
            if isinstance(current, CheckpointException):
                pending += [failure for failure, _ in current.failures.values()]


def _reason(error: BaseException) -> str:
    root = list(_chain(error))[-1] if isinstance(error, CheckpointException) else error
    return f"{type(root).__name__}: {str(root).strip().splitlines()[0] if str(root).strip() else 'no reason given'}"
