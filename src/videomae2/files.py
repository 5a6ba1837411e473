"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; afterwards it takes the place of `path`.

    Readers see the old file or the new one, never a part. Where the body raises, the old file stays and the
    temporary one is removed. The folder must exist.
    """
    # Beside it, because a rename is atomic only within one file system; with the process id, so that two
    # writers do not share a temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file (UTF-8) in one rename.

    Readers see the old text or the new one, never a part, also after a power cut.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        # The rename may reach the disk before the data does, and would then leave an empty file.
        os.fsync(file.fileno())
