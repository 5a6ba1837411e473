"""The index of a checkpoint, read without running anything that is in it: it is a pickle, and only shapes may
come out.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

_TORCH = "torch.distributed.checkpoint"
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
    """torch's reader of checkpoint folders, with an index that may name only the classes an index needs."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Read the index; UnpicklingError where it names anything but shapes."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _IndexUnpickler(file).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"its index asks for {module}.{name}, which no checkpoint needs; it was not run"
        )
