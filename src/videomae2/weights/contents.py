"""What a weights file turned out to be, in our names, whoever wrote it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomae2.errors import UserError
from videomae2.positions import sinusoid
from videomae2.settings import ModelSettings
from videomae2.weights import layouts
from videomae2.weights.fetch import Source, open_source
from videomae2.weights.label_map import read_label_map
from videomae2.weights.recognise import Sketch, read_settings, sketch
from videomae2.weights.write import FORMAT_VERSION, OUR_KEY

FIRST_TOKEN = "it classifies from its first token, without mean pooling and fc_norm, which this package's classifier cannot do"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under our names, and what is known about them.

    kind: pretrain (with a decoder), classifier (with a head) or encoder. layout: ours, released, hub,
    transformers or mmaction2. settings: None where neither shapes nor configuration say enough; `notes` then
    say why. `resized` lists what was changed to fit (a sliced head). `metadata` is what its writer kept
    beside the tensors.
    """

    state: dict[str, Tensor]
    kind: str
    layout: str
    source: str
    settings: ModelSettings | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()

    @property
    def sketch(self) -> Sketch:
        """The network as its shapes tell it."""
        return sketch(self.state)

    def __repr__(self) -> str:
        return f"Checkpoint({self.source}: {self.layout} layout, {self.kind}, {self.sketch})"


def read_checkpoint(name: str | Path, label_map: str | Path | Sequence[int] | None = None) -> Checkpoint:
    """Read weights in any layout, from a file, a folder or a hub name; slice the head where a label map is
    given.

    Raises UserError for what is missing, truncated, unsafe, or no VideoMAE.
    """
    source = open_source(name)
    cleaned = layouts.clean(source.tensors)
    layout = "ours" if OUR_KEY in source.metadata else layouts.detect(cleaned)
    ours = _our_note(source, layout)
    state = layouts.to_ours(cleaned, layout)
    state, notes = (state, []) if ours is not None else _without_sinusoids(state)
    kind = _kind(state)
    shapes = sketch(state)
    settings: ModelSettings | None
    if ours is not None and ours.get("settings") is not None:
        settings = _settings_from(ours["settings"], source)
    else:
        settings, why_not = read_settings(shapes, source, kind)
        notes += [why_not] if why_not else []
    notes += [] if ours else _warnings(state, source, layout, kind)
    checkpoint = Checkpoint(
        state, kind, layout, str(name), settings, shapes.num_classes,
        _class_names(ours, source, shapes.num_classes), (ours or {}).get("extra", {}), tuple(notes),
    )  # fmt: skip
    return checkpoint if label_map is None else slice_head(checkpoint, label_map)


def slice_head(checkpoint: Checkpoint, label_map: str | Path | Sequence[int]) -> Checkpoint:
    """The same checkpoint with a head for the classes of `label_map` only (710 -> 400, 600 or 700 as
    released).
    """
    if "head.weight" not in checkpoint.state or checkpoint.num_classes is None:
        raise UserError(f"{checkpoint.source} has no classification head to slice; leave the label map away")
    old = read_label_map(label_map, checkpoint.num_classes)
    parts = [name for name in ("head.weight", "head.bias") if name in checkpoint.state]
    sliced = {name: checkpoint.state[name][torch.tensor(old)] for name in parts}
    change = [
        f"{n} {list(checkpoint.state[n].shape)} -> {list(sliced[n].shape)} by the label map" for n in parts
    ]
    names = tuple(checkpoint.class_names[number] for number in old) if checkpoint.class_names else ()
    return replace(
        checkpoint,
        state=checkpoint.state | sliced,
        num_classes=len(old),
        class_names=names,
        resized=(*checkpoint.resized, *change),
    )


def _our_note(source: Source, layout: str) -> dict[str, Any] | None:
    """What this package wrote beside the tensors, in whichever layout."""
    note: Any = source.metadata.get(OUR_KEY) or source.extras.get(OUR_KEY)
    if note is None and layout == "transformers":
        note = source.config.get(OUR_KEY)
    if isinstance(note, str):
        try:
            note = json.loads(note)
        except ValueError as error:
            raise UserError(
                f"{source.path} holds unreadable metadata; write it again with this package"
            ) from error
    if not isinstance(note, Mapping):
        return None
    if note.get("format", 0) > FORMAT_VERSION:
        raise UserError(
            f"{source.path} was written by a newer version of this package (format {note['format']}, read up "
            "to "
            f"{FORMAT_VERSION}); update the package"
        )
    return dict(note)


def _settings_from(content: Mapping[str, Any], source: Source) -> ModelSettings:
    known = {f.name for f in fields(ModelSettings)}
    unknown = sorted(set(content) - known)
    if unknown:
        raise UserError(
            f"{source.path} has model settings this version does not know ({', '.join(unknown)}); update the "
            "package"
        )
    return ModelSettings(**content)


def _kind(state: Mapping[str, Tensor]) -> str:
    if "mask_token" in state or any(name.startswith("decoder.") for name in state):
        return "pretrain"
    return "classifier" if "head.weight" in state else "encoder"


def _without_sinusoids(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Leave out stored position tables that are the sinusoid, which ours makes itself; keep any other as
    learned.
    """
    kept, notes = dict(state), []
    for name in [name for name in state if name.endswith(("pos_embed", "position_embeddings"))]:
        table = state[name].float().reshape(-1, state[name].shape[-1])
        tolerance = 1e-5 if state[name].dtype == torch.float32 else 1e-2
        if torch.allclose(table, sinusoid(*table.shape), rtol=0, atol=tolerance):
            del kept[name]
            notes.append(
                f"left out {name} {list(state[name].shape)}: it is the sinusoid that the model makes itself"
            )
        else:
            notes.append(f"{name} {list(state[name].shape)} is not the sinusoid: taken as a learned table")
    return kept, notes


def _warnings(state: Mapping[str, Tensor], source: Source, layout: str, kind: str) -> list[str]:
    """What a user of somebody else's checkpoint should know before trusting its numbers."""
    notes = []
    eps = source.config.get("layer_norm_eps")
    if layout == "transformers" and isinstance(eps, float) and eps != 1e-6:
        notes.append(
            f"its configuration says LayerNorm eps {eps:g}; the published weights were trained with 1e-6, "
            "which is used here"
        )
    if kind == "classifier" and "fc_norm.weight" not in state:
        notes.append(FIRST_TOKEN)
    if kind == "encoder" and "fc_norm.weight" in state:
        notes.append(
            "it holds an fc_norm, so it was trained with labels (fine-tuned or distilled), not by masked "
            "autoencoding alone"
        )
    return notes


def _class_names(ours: Mapping[str, Any] | None, source: Source, num_classes: int | None) -> tuple[str, ...]:
    if ours is not None:
        return tuple(ours.get("class_names", ()))
    labels = source.config.get("id2label")
    if not isinstance(labels, dict) or len(labels) != num_classes:
        return ()
    names = [labels.get(str(number)) for number in range(num_classes)]
    known = tuple(name for name in names if isinstance(name, str))
    return known if len(known) == len(names) else ()
