"""Small files that strangers wrote beside weights: whether they are there, and JSON of a bounded size."""

import json
from pathlib import Path
from typing import Any

from videomae2.bounds import shown
from videomae2.errors import UserError

MOST_BYTES = 64 * 2**20
"""A configuration or a label map has a few kilobytes, an index of a thousand shards some megabytes."""


def there(path: str | Path) -> bool:
    """Whether something is at `path`; a name that no file can have is nowhere."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # over 255 bytes, or with a NUL
        return False


def is_file(path: Path) -> bool:
    """Whether a regular file is at `path`: no folder, device or pipe, which may never end."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_json(path: Path) -> Any:
    """What a JSON file holds; UserError where it is none, too large, or too deeply nested.

    A pipe or a device is refused before it is opened, because reading it may never end.
    """
    if not is_file(path):
        raise UserError(f"there is no file {quoted(path)}; expected one of JSON")
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"expected at most {MOST_BYTES:,} bytes of JSON in {path}, got {size:,}")
        return json.loads(path.read_text(encoding="utf-8"))
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: nested a thousand deep
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is not readable JSON ({reason}); mend it or fetch it again") from error


def quoted(name: object) -> str:
    """A name as an error or a table shows it: escaped where no terminal could print it, and not too long."""
    text = str(name)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode(errors="backslashreplace").decode()
    return shown(text)[1:-1] if len(text) > 200 or not text.isprintable() else text
