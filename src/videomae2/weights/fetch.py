"""Fetch: from what a user names, a path or a name on the Hugging Face hub, to a file or folder here.

And the small files beside weights: whether they are there, and JSON of a bounded size.
"""

import contextlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

from videomae2.bounds import SHOWN, shown
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


FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Under which names `transformers` keeps weights in a folder or repository; the first one there is taken."""

_ETAG = "HF_HUB_ETAG_TIMEOUT"
_HUB_NAME = re.compile(r"^[\w][\w.-]*/[\w][\w.-]*(/[\w][\w./-]*)?$")
_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_FOLDERS = {
    "checkpoint", "checkpoints", "ckpt", "ckpts", "data", "exp", "experiment", "experiments", "home", "log",
    "logs", "mnt", "model", "models", "out", "output", "outputs", "result", "results", "run", "runs", "tmp",
    "train", "weight", "weights", "work_dir", "work_dirs",
}  # fmt: skip
"""What people call folders, and no organisation on the hub is to be looked up by."""

ANSWER_SECONDS = 4.0
"""How long the hub may take for its first answer; HF_HUB_ETAG_TIMEOUT makes it longer."""


def fetch(name: str | Path) -> Path:
    """The file or folder of `name`: what exists here first, else "org/name[/path/in/repository]" on the hub.

    A hub name becomes a file where one is named, else a folder with config.json and its weights. The hub's
    own cache is used, so that a name fetched once also works offline. UserError with what to try.
    """
    if there(name):
        return Path(name)
    if not is_hub_name(str(name)):
        raise UserError(
            f"there are no weights at {quoted(name)}; expected a .safetensors or .pth file, a folder, or a "
            "hub name like org/name"
        )
    return _fetch_from_hub(str(name))


def is_hub_name(name: str) -> bool:
    """Whether `name` reads as "org/name" or "org/name/path.pth", not as a path to something missing."""
    if not _HUB_NAME.match(name) or ".." in name or len(name) > SHOWN:
        return False
    owner, repository, *inside = name.split("/", 2)
    if inside and not inside[0].endswith(_WEIGHT_SUFFIXES):
        return False
    return not (there(owner) or owner.lower() in _FOLDERS or repository.endswith(_WEIGHT_SUFFIXES))


def shard_names(index: Path) -> list[str]:
    """The files that a `*.index.json` lists; UserError for a name that leads out of the folder."""
    content = read_json(index)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict):
        raise UserError(f"{index} is no index of weight files (it needs a `weight_map`); fetch it again")
    for name in listed.values():
        # An index is a stranger's text: "../../.ssh/id_rsa" must not be opened on its word.
        if not isinstance(name, str) or Path(name).name != name or name == "..":
            raise UserError(
                f"{index} lists {shown(name)}, which is not a file beside it; do not trust this folder"
            )
    return sorted(set(listed.values()))


class _NotThere(UserError):
    """The repository answered, and holds no such file."""


def _fetch_from_hub(name: str) -> Path:
    owner, repo, *inside = name.split("/", 2)
    repository = f"{owner}/{repo}"
    _require_answer(repository, inside[0] if inside else "config.json", name)
    if inside:
        return _download(repository, inside[0], name)
    absent: _NotThere | None = None
    for file in FOLDER_FILES:
        try:
            found = _download(repository, file, name)
        except _NotThere as error:
            absent = error
        else:
            _fetch_companions(repository, found, name)
            return found.parent
    raise UserError(
        f"the hub repository {name} holds none of {', '.join(FOLDER_FILES)}; "
        f"name the file: {name}/path/in/repository.pth"
    ) from absent


def _fetch_companions(repository: str, found: Path, name: str) -> None:
    """Fetch the configurations that there are, and the shards that an index lists."""
    for file in ("config.json", "preprocessor_config.json"):
        with contextlib.suppress(_NotThere):
            _download(repository, file, name)
    if found.name.endswith(".index.json"):
        for shard in shard_names(found):
            _download(repository, shard, name)


def _require_answer(repository: str, file: str, name: str) -> None:
    """Refuse where neither the hub's cache nor, soon, the hub itself has an answer about a repository.

    The client retries an unreachable hub for half a minute, file by file: too long to learn of a typing slip.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    wanted = (file, *FOLDER_FILES)
    if constants.HF_HUB_OFFLINE or any(try_to_load_from_cache(repository, each) for each in wanted):
        return  # the client answers from its cache at once, or says what is missing there
    seconds = max(ANSWER_SECONDS, float(constants.HF_HUB_ETAG_TIMEOUT if _ETAG in os.environ else 0))
    answered = threading.Event()

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(repository, file), timeout=seconds)
        except HfHubHTTPError:  # "no such repository" is an answer too
            pass
        except Exception:  # whatever the transport raised: nobody answered
            return
        answered.set()

    # In a thread, because looking up a host's name knows no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answered.is_set():
        raise UserError(_unreachable(name, file))


def _unreachable(name: str, file: str) -> str:
    return (
        f"{name} is no file or folder here, and the Hugging Face hub could not be reached for it; check the "
        f"path or the network, or fetch {file} elsewhere and give its path"
    )


def _download(repository: str, file: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(repository, file))
    except LocalEntryNotFoundError as error:
        raise UserError(_unreachable(name, file)) from error
    except EntryNotFoundError as error:
        raise _NotThere(
            f"the hub repository {repository} holds no file {file}; look at "
            f"https://huggingface.co/{repository}/tree/main"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name} is no file or folder here, and the Hugging Face hub has no repository {repository} that "
            "you may read; check the spelling, or log in with `hf auth login` where it is gated"
        ) from error
    except Exception as error:  # the client raises whatever its transport raised
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"{name} is no file or folder here, and fetching {file} from the Hugging Face hub failed "
            f"({reason}); check the path or the network, or fetch the file elsewhere and give its path"
        ) from error
