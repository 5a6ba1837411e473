"""Names on the Hugging Face hub -> files on this disk."""

import contextlib
import json
import re
from pathlib import Path

from videomae2.errors import UserError

_WHOLE_NAME = re.compile(r"^[\w][\w.-]*/[\w][\w.-]*(/[\w][\w./-]*)?$")
_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def is_hub_name(name: str) -> bool:
    """Whether `name` reads as "org/name" or "org/name/path/in/repo.pth" and not as a path that merely is not
    there.
    """
    if not _WHOLE_NAME.match(name) or ".." in name:
        return False
    parts = name.split("/")
    return not (Path(parts[0]).exists() or parts[1].endswith(_WEIGHT_SUFFIXES))


def fetch(name: str) -> Path:
    """The local copy of a hub name: a file where one is named, else a folder with config.json and its
    weights.

    Uses the hub's own cache, so that a name fetched once also works offline. Raises UserError with what to
    try.
    """
    owner, repo, *inside = name.split("/", 2)
    if inside:
        return _download(f"{owner}/{repo}", inside[0], name)
    found: Path | None = None
    problem: UserError | None = None
    for file in _WEIGHT_FILES:
        try:
            found = _download(f"{owner}/{repo}", file, name)
            break
        except UserError as error:
            problem = error
            if not isinstance(error, _NotThere):
                break
    if found is None:
        if isinstance(problem, _NotThere):
            raise UserError(
                f"the hub repository {name} holds none of {', '.join(_WEIGHT_FILES)}; "
                f"name the file: {name}/path/in/repository.pth"
            ) from problem
        raise problem or UserError(f"nothing was found at {name}")
    _fetch_companions(f"{owner}/{repo}", found, name)
    return found.parent


class _NotThere(UserError):
    """The repository answered, and holds no such file."""


def _fetch_companions(repo: str, found: Path, name: str) -> None:
    """config.json where there is one, and the shards that an index lists."""
    with contextlib.suppress(_NotThere):
        _download(repo, "config.json", name)
    if found.name.endswith(".index.json"):
        for shard in shard_names(found):
            _download(repo, shard, name)


def shard_names(index: Path) -> list[str]:
    """The files that a `*.index.json` lists; a name that leads out of the folder is refused."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{index} is no index of weight files (it needs a `weight_map`); fetch it again"
        ) from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(
                f"{index} lists {name!r}, which is not a file beside it; do not trust this folder"
            )
    return names


def _download(repo: str, file: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(repo, file))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{name} is no file or folder here, and the Hugging Face hub could not be reached for it; check "
            "the path or the "
            f"network, or fetch {file} elsewhere and give its path"
        ) from error
    except EntryNotFoundError as error:
        raise _NotThere(
            f"the hub repository {repo} holds no file {file}; look at https://huggingface.co/{repo}/tree/main"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name} is no file or folder here, and the Hugging Face hub has no repository {repo} that you "
            "may read; check the "
            f"spelling, or log in with `hf auth login` where it is gated"
        ) from error
    except Exception as error:  # the client raises whatever its transport raised
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"{name} is no file or folder here, and fetching {file} from the Hugging Face hub failed "
            f"({reason}); check the path "
            f"or the network, or fetch the file elsewhere and give its path"
        ) from error
