"""Files that are written whole or not at all, and why one could not be written, in one line.

Every writer of the package goes through `replacing` or `append`, so that a full disk, a quota, a read-only
folder or a kill harms none of them: the old file stays, nothing half-written is left, and temporaries of a
process that was killed are removed by the next one that writes into the folder.
"""

import contextlib
import errno
import functools
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from videomae2.errors import UserError

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not grow this large here (ulimit -f, or a limit of the file system)",
}
_REFUSALS = (*_NO_ROOM, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_LONGEST = 200


@contextlib.contextmanager
def replacing(path: Path, synced: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to; afterwards that file takes the place of `path`, in one rename.

    Readers see the old file or the new one, never a part, also after a power cut. Where the body raises, the
    old file stays and nothing else is left; UserError where the system refuses to write. The folder is made
    where it is missing. `synced=False` skips the wait for the disk, for many small files of which another,
    synced one, tells that they are complete.
    """
    path = Path(path)
    with writing(path), _temporary_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        # Some libraries write files that nobody else may read.
        temporary.chmod(0o666 & ~_umask())
        if synced:
            # The rename may reach the disk before the data does, and would then leave an empty file. And only
            # now do network file systems say that there is no room.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)


def write_atomically(path: Path, content: str | bytes, synced: bool = True) -> None:
    """Replace a file, text in UTF-8, in one rename; as `replacing`."""
    with replacing(path, synced) as temporary:
        temporary.write_bytes(encoded(content))


def append(path: Path, content: str | bytes) -> None:
    """Add to the end of a file; UserError, with the file as it was, where the system refuses to write it."""
    left = memoryview(encoded(content))
    with writing(path):
        if path.exists() and not path.is_file():  # a pipe would be waited for until somebody reads it
            raise UserError(f"expected a file at {_shown(path)}, got a folder, pipe or device; move it away")
    # Without a buffer, which would be written once more when the file is closed.
    with writing(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                file.truncate(before)  # a part of a line would be read as damage
                if not before:
                    path.unlink()  # it was made here, or held nothing
            raise


def regular(path: Path) -> Path:
    """The path again; OSError where it is a folder, a pipe or a device, which could be read without end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is no file", str(path))
    return path


def encoded(content: str | bytes) -> bytes:
    """Text as UTF-8. Characters that stand for bytes of file names that are no text become escapes.

    In JSON the escape is the character.
    """
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


def make_folder(path: Path) -> None:
    """Make a folder and those above it where they are missing; UserError where that cannot be."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed while they replaced a file have left in a folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):  # in use, or removed by another process meanwhile
                lock = _lock(path)
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into a UserError; other errors pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refused = refusal(error)
        # A file that is only read in there, and is not there, has another name.
        elsewhere = getattr(refused, "filename", None)
        if refused is None or (elsewhere and not _is_near(path, elsewhere)):
            raise
        kept = "; the one that was there is untouched" if _is_file(path) else ""
        room = "make room, or " if no_room(refused) else ""
        raise UserError(
            f"{_shown(path)} could not be written: {reason(refused, path)}{kept}; {room}choose another "
            "place, and run the same command again"
        ) from error


def refusal(error: BaseException) -> OSError | None:
    """The system's error behind an exception, if there is one: itself, its cause, its context, its text."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and (current is error or current.errno in _REFUSALS):
            return current
        # Libraries in Rust put it into their message alone.
        if number := re.search(r"\(os error (\d+)\)", str(current)):
            return OSError(int(number[1]), os.strerror(int(number[1])))
        current = current.__cause__ or current.__context__
    return None


def no_room(error: OSError) -> bool:
    """Whether the system refused to write for want of room, in whatever form."""
    return error.errno in _NO_ROOM


def reason(error: OSError, path: Path) -> str:
    """Why the system refused to write `path`, in a few words, with the room that is left where that is it."""
    if error.errno not in _NO_ROOM:
        return (error.strerror or str(error)).lower()
    there = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    return f"{_NO_ROOM[error.errno]} ({shutil.disk_usage(there).free / 2**20:.0f} MB free)"


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, removed afterwards with all that is in it; locked against `sweep`."""
    # Beside it, because a rename is atomic only within one file system. A folder rather than a file, because
    # libraries make temporary files of their own beside what they write, and these must go with it.
    path.parent.mkdir(parents=True, exist_ok=True)
    _swept(path.parent)
    # Cut, so that a name of 255 bytes, the most there is, can be written too.
    prefix = os.fsencode(path.name)[:200].decode(errors="ignore")
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{prefix}.", suffix=".tmp", dir=path.parent))
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process swept in between, and took it for one that is left
        except OSError:
            lock = None  # a file system without locks, where nothing is swept either
        if folder.is_dir():
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@functools.cache
def _swept(folder: Path) -> None:
    # Once a process: to list a folder before each of the many files written into it would take longer and
    # longer.
    sweep(folder)


def _lock(folder: Path) -> int:
    """Lock a temporary folder as one in use, until the descriptor is closed; OSError where it cannot be."""
    # A lock ends with its process, whereas a process id in the name would mean nothing in another container,
    # where every program may be number 1.
    import fcntl  # not on Windows

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@functools.cache
def _umask() -> int:
    # It can only be read by setting it, which other threads would see: so once.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_near(path: Path, name: str | bytes | int) -> bool:
    """Whether a name in an error is of `path`, of its temporary, or of a folder above it."""
    if isinstance(name, int):
        return False
    other, own = Path(os.fsdecode(name)).absolute(), path.absolute()
    return own.parent in (other.parent, *other.parents) or other in own.parents


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # of a name that is too long, and of a folder that may not be entered
        return False


def _shown(path: Path) -> str:
    text = str(path)
    return text if len(text) <= _LONGEST else f"...{text[-_LONGEST:]}"


def must_be_new(*paths: Path) -> None:
    """Refuse, before any work, to write where a file or a folder with something in it is already.

    No command can know whose it is. UserError names it.
    """
    for path in paths:
        if any(path.iterdir()) if path.is_dir() else os.path.lexists(path):
            raise UserError(
                f"expected a new file or folder to write, got {path}, which is there; give another name, or "
                "remove it first"
            )


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of a value, with text as it is; a number that is NaN or infinite is null.

    Python's own writes a bare NaN, which is no JSON, and other readers refuse the file.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a walk through all of it only where there is such a number
        return json_text(_finite(value), indent)
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a file's name that are no text
        return json.dumps(value, indent=indent, allow_nan=False)
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
