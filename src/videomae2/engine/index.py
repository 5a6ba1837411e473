"""The index of a checkpoint (`.metadata`): a pickle, read by an unpickler limited to shapes and offsets."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

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
