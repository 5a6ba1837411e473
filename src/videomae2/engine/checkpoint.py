"""Checkpoints: written beside their place, renamed into it when complete, resharded when they are read.

checkpoints/step-N/ holds every tensor of the run (`model.*`, `ema.*`, `optimizer.*`) in the format of
torch.distributed.checkpoint, and state.json: the step, the counters, and the size of each file, by which
damage is found before a tensor is read.
"""

import contextlib
import json
import os
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
from videomae2.engine.damage import SafeReader, damage_named, save_error
from videomae2.errors import UserError
from videomae2.files import write_atomically

STATE = "state.json"
_PREFIX = "step-"
_TEMPORARY = ".writing-"


def step_of(path: Path) -> int:
    """The optimizer step in the name of a checkpoint folder."""
    return int(path.name.removeprefix(_PREFIX))


def checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint of a run's checkpoints folder, oldest first, without temporary folders."""
    found = (path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit())
    return sorted(found, key=step_of)


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any], step: int) -> Path:
    """Write folder/step-N and make it visible by one rename: tensors by flat name, and `state`, plain JSON.

    Collective: every rank calls it and writes its own shards. UserError where the disk is full or not
    writable; earlier checkpoints are untouched, and the incomplete one is removed.
    """
    final, temporary = folder / f"{_PREFIX}{step}", folder / f"{_TEMPORARY}{step}"
    try:
        if parallel.is_main():
            sweep(folder)
            temporary.mkdir(parents=True)
        parallel.barrier()  # no rank writes before the folder is there
        with _without_single_process_warning():
            save(tensors, storage_writer=FileSystemWriter(temporary), no_dist=not parallel.in_group())
        if parallel.is_main():
            # state.json comes last, since it lists the size of every other file: a folder that has one was
            # written to its end, by all ranks. The rename comes after it, so that a process killed at any
            # instruction leaves either no step-N or a complete one, without a journal or a repair.
            sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
            write_atomically(
                temporary / STATE, json.dumps({"step": step, "files": sizes, **state}, indent=2) + "\n"
            )
            _publish(temporary, final)
        parallel.barrier()  # no rank goes on, or ends, before the checkpoint is visible
    except (OSError, RuntimeError, CheckpointException) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise save_error(error, final, checkpoints(folder)) from error
    except BaseException:  # Ctrl-C too must not leave gigabytes behind
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def read_state(path: Path) -> dict[str, Any]:
    """The contents of state.json; UserError if the checkpoint is incomplete or damaged."""
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
        # Sizes rather than checksums: they find a copy that was cut short or lost a file without reading
        # gigabytes at every start.
        wrong = [
            name
            for name, size in state["files"].items()
            if not (path / name).is_file() or (path / name).stat().st_size != size
        ]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"checkpoint {path} is damaged: its {STATE} cannot be read ({error})") from error
    if wrong:
        raise UserError(
            f"checkpoint {path} is damaged: expected the files that were written, got {', '.join(wrong)} "
            "missing or of another size"
        )
    return state


def latest(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of a checkpoints folder, with a warning for each damaged one skipped.

    None where there is no checkpoint at all. UserError where every one is damaged: to begin again at step 0
    without a word would hide the loss.
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
    """Name -> shape and dtype of every tensor in a checkpoint, from its index alone."""
    with damage_named(path):
        entries = SafeReader(path).read_metadata().state_dict_metadata
    return {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def load_tensors(path: Path, into: dict[str, Tensor]) -> None:
    """Overwrite tensors in place by flat name, whole or sharded; other tensors of the checkpoint are ignored.

    UserError where a name is missing or has another shape (a checkpoint of another architecture), or a file
    is damaged.
    """
    there = tensor_names(path)
    missing = [name for name in into if name not in there]
    reshaped = [name for name in into if name in there and tuple(there[name].size) != tuple(into[name].shape)]
    if missing or reshaped:
        # Checked here rather than left to torch, which reports the first tensor with a traceback a rank.
        name = (missing or reshaped)[0]
        what = (
            f"{name} is not in it"
            if missing
            else f"expected {name} of shape {list(into[name].shape)}, got {list(there[name].size)}"
        )
        raise UserError(
            f"checkpoint {path} is of another architecture: {len(missing)} tensors are missing and "
            f"{len(reshaped)} have another shape ({what}); build the model with its run's settings"
        )
    if into:
        with damage_named(path), _without_single_process_warning():
            load(into, storage_reader=SafeReader(path), no_dist=not parallel.in_group())


def load_model_state(path: Path, which: str = "model") -> dict[str, Tensor]:
    """The state dict of a checkpoint, or of a run's newest one: whole tensors on the CPU, by bare name.

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
    # Not a collective even in a group: one rank may read weights without the others.
    with damage_named(path), _without_single_process_warning():
        load(state, storage_reader=SafeReader(path), no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def find(path: str | Path) -> Path:
    """The checkpoint that a path names: itself, or the newest of a run or of a checkpoints folder.

    UserError if there is none.
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
    """Remove temporary folders of a process that was killed while it wrote or removed a checkpoint."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def keep(folder: Path, last: int, best_step: int | None) -> None:
    """Remove all but the newest `last` checkpoints and the best one, and temporary folders."""
    if parallel.is_main():
        sweep(folder)
        for path in checkpoints(folder)[: -max(1, last)]:
            if step_of(path) != best_step:
                _remove(path)


@contextlib.contextmanager
def _without_single_process_warning() -> Iterator[None]:
    # torch warns that it works in a single process even where `no_dist=True` demands that.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _publish(temporary: Path, final: Path) -> None:
    # After a power cut a rename may be on the disk before the names of the files in the folder are, so the
    # folder is synchronised first, and the rename itself by its parent.
    _sync(temporary)
    if final.exists():  # a damaged one, whose step the resumed run has reached again
        _remove(final)
    temporary.rename(final)
    _sync(final.parent)


def _remove(path: Path) -> None:
    # Renamed first: a removal that is killed halfway must not leave a damaged step-N.
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
