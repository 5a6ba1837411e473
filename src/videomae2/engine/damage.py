"""What a damaged or hostile checkpoint can do: nothing, and why it could not be read or written, in one line.

The index (`.metadata`) is a pickle, read here by an unpickler limited to shapes and offsets; torch's nested
exceptions become one sentence.
"""

import contextlib
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from videomae2.errors import UserError
from videomae2.files import no_room, reason

_TORCH = "torch.distributed.checkpoint"
# Unpickling calls whatever callable the file names, so torch's own reader runs code that a checkpoint from
# somebody else may contain. These are all the names in an index that torch writes. `pathlib._local` is where
# Python 3.13 keeps `PosixPath`.
_ALLOWED = frozenset(
    {
        *(
            (f"{_TORCH}.metadata", name)
            for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")
        ),
        *(
            (f"{_TORCH}.metadata", name)
            for name in ("TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata")
        ),
        (f"{_TORCH}.metadata", "_MEM_FORMAT_ENCODING"),
        (f"{_TORCH}.filesystem", "_StorageInfo"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),
        ("collections", "OrderedDict"),
    }
)


class SafeReader(FileSystemReader):
    """torch's reader of checkpoint folders, but the index may name only the classes that an index needs.

    The tensors themselves are safe already: torch reads them with `weights_only=True`.
    """

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Read the index; UnpicklingError where it names any other class or function."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = _IndexUnpickler(file).load()
        # As torch's own reader does: an index written by older versions has no such field.
        storage: StorageMeta = getattr(metadata, "storage_meta", None) or StorageMeta()
        storage.load_id = self.load_id
        metadata.storage_meta = storage
        return metadata


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Dtypes are admitted by their type: a list of names would have to follow each new dtype of torch.
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"expected an index that names only shapes and offsets, got {module}.{name}; it was not run"
        )


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever torch raises for a damaged file into a UserError; its type depends on the damage."""
    # What reading a zip file or a pickle of wrong bytes raises. TypeError and the like are absent on purpose:
    # they would be faults of this package, and "damaged" would hide them.
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


def save_error(error: BaseException, final: Path, before: Sequence[Path]) -> Exception:
    """The error to raise where checkpoint `final` could not be written, with `before`, oldest first, left.

    UserError where the system refused to write, else RuntimeError.
    """
    causes = [cause for cause in _chain(error) if isinstance(cause, OSError)]
    if not causes:  # a fault of ours or of torch's, which no user can mend
        return RuntimeError(f"checkpoint {final} could not be written: {_reason(error)}")
    left = f"{before[-1].name} before it is untouched" if before else "there was none before it"
    # Over all causes: another rank's full disk, or a quota, may be behind an error that says neither.
    cause = next((each for each in causes if no_room(each)), causes[-1])
    mend = "make room" if no_room(cause) else "let it be written"
    return UserError(
        f"checkpoint {final} could not be written: {reason(cause, final)}; {left}; {mend} and run the same "
        "command to resume"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, its causes and contexts, and the failures that other ranks reported."""
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None:
            yield current
            pending += [current.__cause__, current.__context__]
            # torch reports every rank's exception in one mapping, where a full disk is not in the chain.
            if isinstance(current, CheckpointException):
                pending += [failure for failure, _ in current.failures.values()]


def _reason(error: BaseException) -> str:
    """One line, since torch's messages carry the traceback of every rank."""
    root = list(_chain(error))[-1] if isinstance(error, CheckpointException) else error
    text = str(root).strip()
    return f"{type(root).__name__}: {text.splitlines()[0] if text else 'no reason given'}"
