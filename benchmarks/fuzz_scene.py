"""One case of the fuzzing: its folder, its chance, the good files, and what would betray a payload."""

import os
import random
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from fuzz_stock import Stock

OUT = "out"
"""What commands are told to write, in the folder of the case; anything else there must stay as it was."""


@dataclass(frozen=True)
class Scene:
    """`folder` is fresh and the working directory; `canary` must not exist when the command has ended."""

    rng: random.Random
    folder: Path
    stock: Stock
    canary: Path

    def write(self, name: str | bytes, data: bytes | str) -> str:
        """A file in the folder; its name comes back."""
        path = self.folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))
        return os.fsdecode(name)

    def copy(self, source: Path, name: str) -> str:
        """A good file or folder under a name in the folder."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copyfile(source, target)
        return name

    def something_else(self, name: str) -> str:
        """At a name where a file is expected: a folder, a pipe, a link to nothing, to itself, to a device."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        kind = self.rng.choice(("folder", "pipe", "dangling", "loop", "zero", "null", "empty", "secret"))
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind in ("empty", "secret"):
            path.write_bytes(b"" if kind == "empty" else b"secret")
        else:
            targets = {"dangling": "nowhere", "loop": path.name, "zero": "/dev/zero", "null": "/dev/null"}
            path.symlink_to(targets[kind])
        return name


def contents(folder: Path, leave: str = OUT) -> dict[str, tuple[int, int, int, str]]:
    """What is in a folder, without what commands were told to write: kind, size, time, target of a link."""
    found: dict[str, tuple[int, int, int, str]] = {}
    for place, folders, files in os.walk(folder):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name != leave]
        for name in (*folders, *files):
            path = Path(place) / name
            status = path.lstat()
            link = str(path.readlink()) if stat.S_ISLNK(status.st_mode) else ""
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            found[str(path)] = (stat.S_IFMT(status.st_mode), size, status.st_mtime_ns, link)
    return found
