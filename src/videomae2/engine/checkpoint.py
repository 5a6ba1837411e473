"""Checkpoints: written beside their place, renamed into it when complete, resharded when they are read.

checkpoints/step-N/ holds every tensor of the run (`model.*`, `ema.*`, `optimizer.*`) in the format of
torch.distributed.checkpoint; state.json, the step and the counters; and SHA256SUMS, the checksum of each
file, by which damage is found before a tensor is used (and by `sha256sum -c`).
"""

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from videomae2.bounds import shortened
from videomae2.engine import parallel
from videomae2.engine.damage import SafeReader, damage_named, save_error
from videomae2.engine.progress import say
from videomae2.errors import UserError
from videomae2.files import json_text, regular, write_atomically

STATE = "state.json"
SUMS = "SHA256SUMS"
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
        parallel.on_main(lambda: _begin(temporary))  # no rank writes before the folder is there
        with _without_single_process_warning():
            save(tensors, storage_writer=FileSystemWriter(temporary), no_dist=not parallel.in_group())
        text = json_text({"step": step, **state}, 2) + "\n"
        parallel.on_main(lambda: write_atomically(temporary / STATE, text))
        sums = _shared_sums(temporary)
        # No rank goes on, or ends, before the checkpoint is visible.
        parallel.on_main(lambda: _finish(temporary, final, sums))
    except (OSError, RuntimeError, UserError, CheckpointException) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise save_error(error, final, checkpoints(folder)) from error
    except BaseException:  # Ctrl-C too must not leave gigabytes behind
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _begin(temporary: Path) -> None:
    sweep(temporary.parent)
    temporary.mkdir(parents=True)


def _finish(temporary: Path, final: Path, sums: Mapping[str, str]) -> None:
    # The sums come last, since they list every other file. The rename comes after them, so that a process
    # killed at any instruction leaves either no step-N or a complete one, without a journal or a repair.
    write_atomically(temporary / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    _publish(temporary, final)


def read_state(path: Path) -> dict[str, Any]:
    """The contents of state.json; UserError where it cannot be read."""
    try:
        state: dict[str, Any] = json.loads(regular(path / STATE).read_text(encoding="utf-8"))
        state["step"] = int(state["step"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"checkpoint {path} is damaged: its {STATE} cannot be read ({error})") from error
    return state


def verify(path: Path) -> None:
    """UserError unless a checkpoint holds every byte that was written."""
    # All of it is read, which takes as long as loading it: nothing else finds a flipped bit in a weight.
    try:
        lines = regular(path / SUMS).read_text(encoding="ascii").splitlines()
        sums = {name: kept for kept, _, name in (line.partition("  ") for line in lines)}
        # By its bare name: the sums are a stranger's text, and "../x" or "/dev/zero" none of their files.
        wrong = [name for name, kept in sums.items() if _sum_of(path / Path(name).name) != kept]
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from error
    wrong += [name for name in (STATE, ".metadata") if name not in sums]
    if wrong:
        raise UserError(
            f"checkpoint {path} is damaged: expected the files that were written, got other contents of "
            f"{shortened(', '.join(wrong[:3]))}"
        )


def latest(folder: Path, tell: Callable[[str], object] = say) -> Path | None:
    """The newest undamaged checkpoint of a checkpoints folder; `tell` gets a sentence where one is skipped.

    None where there is no checkpoint at all. UserError where every one is damaged: to begin again at step 0
    without a word would hide the loss.
    """
    damage: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            verify(path)
        except UserError as error:
            damage.append(str(error))
            continue
        for line in damage:
            tell(f"{line}; going back to {path.name}, the one before it")
        return path
    if damage:
        raise UserError(
            f"no usable checkpoint is left: {damage[0]}; restore one from a copy, or remove {folder} to "
            "start the run again from its first step"
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
        # Each rank sees its own shards; refused on one alone, the others would wait for it in the next step.
        found = [name for each in parallel.all_objects(_not_finite(into)) for name in each]
        _must_be_finite(path, found)


def load_model_state(path: Path, which: str = "model") -> dict[str, Tensor]:
    """The state dict of a checkpoint, or of a run's newest one: whole tensors on the CPU, by bare name.

    `which` is "model" (trained) or "ema" (averaged). UserError if the checkpoint has no such weights or is
    damaged.
    """
    path = find(path)
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
    """The checkpoint that a path names: itself, or the newest of a run or of a checkpoints folder; verified.

    UserError if there is none, or none that is whole.
    """
    path = Path(path)
    if (path / STATE).is_file():
        verify(path)
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


def keep(folder: Path, last: int, best_step: int | None, newest: int) -> None:
    """Remove all but `last` checkpoints up to step `newest`, which has just been written, and the best one.

    Later ones are what a resumed run skipped as damaged: they go too, and must not count among those kept.
    """
    if parallel.is_main():
        sweep(folder)
        there = checkpoints(folder)
        kept = [path for path in there if step_of(path) <= newest][-last:]
        for path in there:
            if path not in kept and (step_of(path) != best_step or step_of(path) > newest):
                _remove(path)


def _shared_sums(folder: Path) -> dict[str, str]:
    """The checksum of every file, on every rank. Each reads what it wrote; the main one all other files."""
    names = sorted(path.name for path in folder.iterdir())
    own = [name for name in names if name.startswith(f"__{parallel.rank()}_")]
    if parallel.is_main():
        own += [name for name in names if not name.startswith("__")]
    sums: dict[str, str] = {}
    own_sums = parallel.together(lambda: {name: _sum_of(folder / name) for name in own})
    for part in parallel.all_objects(own_sums):
        sums |= part
    return sums


def _sum_of(path: Path) -> str:
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    floating = {
        name: parallel.local(tensor) for name, tensor in tensors.items() if tensor.is_floating_point()
    }
    return [name for name, tensor in floating.items() if not bool(torch.isfinite(tensor).all())]


def _must_be_finite(path: Path, found: list[str]) -> None:
    if found:
        raise UserError(
            f"expected finite numbers in checkpoint {path}, got NaN or infinity in {found[0]}"
            + (f" and {len(found) - 1} other tensors" if len(found) > 1 else "")
            + f"; remove {path} to go back to the one before it, or train again in another --out"
        )


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
