"""Other people's checkpoints and ours.

Four verbs, one for each way: fetch a name to a local file, read a file to a `Checkpoint`, load a checkpoint
into a module, write a module to a file. `describe` shows a checkpoint and converts it.
"""

from videomae2.weights.classes import match_classes, same_name
from videomae2.weights.contents import Checkpoint, read_checkpoint, settings_from, slice_head
from videomae2.weights.load import LoadReport, load_into
from videomae2.weights.write import save_safetensors

__all__ = [
    "Checkpoint",
    "LoadReport",
    "load_into",
    "match_classes",
    "read_checkpoint",
    "same_name",
    "save_safetensors",
    "settings_from",
    "slice_head",
]
