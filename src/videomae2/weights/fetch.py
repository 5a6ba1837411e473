"""From what a user names (a file, a transformers-style folder, a hub name) to raw tensors under whatever
names they have.
"""

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from videomae2.errors import UserError
from videomae2.weights import hub
from videomae2.weights.pickles import read_pickle, read_safetensors

_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_NESTS = ("model", "module", "state_dict", "model_state_dict")
"""Where the released code (`model`, DeepSpeed's `module`), MMEngine and home-made scripts put the tensors, in
this order.
"""


@dataclass(frozen=True)
class Source:
    """Raw tensors as a file holds them, and what came along: config.json, safetensors metadata, the pickle's
    other entries.
    """

    tensors: dict[str, Tensor]
    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)


def open_source(name: str | Path) -> Source:
    """Read `name`: an existing file or folder first, else "org/name[/path/in/repo]" on the hub. UserError
    with what to try.
    """
    path = Path(name)
    if not path.exists():
        if not hub.is_hub_name(str(name)):
            raise UserError(
                f"there are no weights at {name}; give a .safetensors or .pth file, a folder, or a hub name "
                "like org/name"
            )
        path = hub.fetch(str(name))
    return _open_folder(path) if path.is_dir() else _open_file(path)


def _open_folder(folder: Path) -> Source:
    for file in _FOLDER_FILES:
        if (folder / file).exists():
            break
    else:
        raise UserError(
            f"the folder {folder} holds none of {', '.join(_FOLDER_FILES)}; name the weights file itself"
        )
    if not file.endswith(".index.json"):
        return _open_file(folder / file)
    shards = [_open_file(folder / shard) for shard in hub.shard_names(folder / file)]
    tensors = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    return Source(tensors, folder, shards[0].config, shards[0].metadata) if shards else Source({}, folder)


def _open_file(path: Path) -> Source:
    config = _read_config(path.parent / "config.json")
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        return Source(tensors, path, config, metadata)
    tensors, extras = _unwrap(read_pickle(path), path)
    return Source(tensors, path, config, {}, extras)


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict inside a checkpoint, however deep it is nested, and the entries beside it."""
    extras: dict[str, Any] = {}
    while isinstance(content, Mapping):
        tensors = {
            name: value
            for name, value in content.items()
            if isinstance(name, str) and isinstance(value, Tensor)
        }
        nest = next((name for name in _NESTS if isinstance(content.get(name), Mapping)), None)
        if nest is None:
            if not tensors:
                break
            return tensors, extras | {name: value for name, value in content.items() if name not in tensors}
        extras |= {
            name: value for name, value in content.items() if name != nest and not isinstance(value, Tensor)
        }
        content = content[nest]
    raise UserError(
        f"{path} holds no state dict (looked under {', '.join(_NESTS)}); save the model's state_dict() and "
        "give that file"
    )


def _read_config(path: Path) -> dict[str, Any]:
    """config.json beside the weights; empty where there is none or it is somebody else's."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); mend it, or move the weights away from it"
        ) from error
    return config if isinstance(config, dict) else {}


def namespace_value(extras: Mapping[str, Any], name: str) -> Any:
    """What the command line that trained a released checkpoint said for `name`, or None."""
    arguments = extras.get("args")
    if isinstance(arguments, Namespace):
        return getattr(arguments, name, None)
    return arguments.get(name) if isinstance(arguments, Mapping) else None
