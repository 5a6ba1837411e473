"""Read: what a weights file turned out to be, in our names, whoever wrote it. Slices heads by label maps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from videomae2.architecture import Architecture, architecture_of
from videomae2.bounds import shown
from videomae2.config import known_settings
from videomae2.errors import UserError
from videomae2.positions import sinusoid
from videomae2.settings import ModelSettings
from videomae2.weights import layouts
from videomae2.weights.classes import Origin, origin_of
from videomae2.weights.fetch import fetch, quoted, read_json, there
from videomae2.weights.normalisation import check_dense, fold_standard, take_standard
from videomae2.weights.pickles import RawWeights, read_raw
from videomae2.weights.recognise import check_agrees, check_encoder, in_words, num_classes_of, recognise
from videomae2.weights.write import FORMAT_VERSION, OUR_KEY

FIRST_TOKEN = (
    "it classifies from its first token, without mean pooling and fc_norm, which this package's classifier "
    "cannot do"
)
"""The note on a classifier that no head of ours can hold; a failed load repeats it."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under our names, and what is known about them.

    kind: pretrain (with a decoder), classifier (with a head), detector (with one over boxes), encoder or
    localizer (on features). layout: ours, released, hub, transformers, mmaction2 or actionformer. source:
    what the user named. settings: None where neither shapes nor configuration say enough; `notes` then say
    why. `resized` lists what was changed to fit (a sliced head). `metadata` is what its writer kept beside
    the tensors.
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
    def names_origin(self) -> Origin:
        """Where the class names came from: what its writer noted, or else what they look like."""
        noted: Any = self.metadata.get("class_names_from") if self.class_names else None
        known: tuple[Origin, ...] = get_args(Origin)
        return next((origin for origin in known if origin == noted), origin_of(self.class_names))

    @property
    def architecture(self) -> Architecture | None:
        """The network, where the file says enough of it."""
        if self.settings is None:
            return None
        classes = self.num_classes if self.kind in ("classifier", "detector") else None
        return architecture_of(self.settings, decoder=self.kind == "pretrain", num_classes=classes or 0)

    @property
    def sketch(self) -> str:
        """The network in words, as its tensors' shapes tell it."""
        return in_words(self.state)

    def __repr__(self) -> str:
        return f"Checkpoint({self.source}: {self.layout} layout, {self.kind}, {self.sketch})"


def read_checkpoint(name: str | Path, label_map: str | Path | Sequence[int] | None = None) -> Checkpoint:
    """Read weights in any layout from a file, a folder or a hub name; slice the head by a label map.

    UserError for what is missing, truncated, unsafe, or no VideoMAE.
    """
    raw = read_raw(fetch(name))
    cleaned = layouts.clean(raw.tensors)
    if detector := layouts.localizer_layout(cleaned):
        return _localizer(raw, cleaned, detector, quoted(name))
    found = layouts.Network(cleaned, "ours", ()) if OUR_KEY in raw.metadata else layouts.find_network(cleaned)
    layout = found.layout
    check_dense(found.state, raw.path)
    ours = _our_note(raw, layout)
    state = layouts.to_ours(found.state, layout)
    # What this package wrote needs no guessing; its position tables are there because they were learned.
    if ours is not None:
        notes: list[str] = []
    else:
        standard, state = take_standard(state, raw.preprocessor, raw.path)
        state, notes = _without_sinusoids(state)
    check_encoder(state)
    if ours is None:
        state, folded = fold_standard(state, standard)
        notes += [folded] if folded else []
    kind, num_classes = _kind(state), num_classes_of(state)
    settings: ModelSettings | None
    if ours is not None and ours.get("settings") is not None:
        settings = settings_from(ours["settings"], raw.path)
        check_agrees(settings, state, kind, raw.path)
    else:
        settings, why_not = recognise(state, raw, kind)
        notes += [why_not] if why_not else []
    notes += [] if ours else _warnings(state, raw, layout, kind)
    if found.around:
        notes.append(f"left out what lies around the network: {_few(found.around)}")
    checkpoint = Checkpoint(
        state=state,
        kind=kind,
        layout=layout,
        source=quoted(name),
        settings=settings,
        num_classes=num_classes,
        class_names=_class_names(ours, raw, num_classes),
        metadata=(ours or {}).get("extra", {}),
        notes=tuple(notes),
    )
    return checkpoint if label_map is None else slice_head(checkpoint, label_map)


def _localizer(raw: RawWeights, cleaned: dict[str, Tensor], layout: str, source: str) -> Checkpoint:
    """A temporal detector, which has no encoder: ours says what it is, of others the shapes do."""
    notes: list[str] = []
    averaged = raw.extras.get("state_dict_ema")
    if layout == "actionformer" and isinstance(averaged, Mapping):
        # Those are what it evaluates with, and what its published numbers are of.
        cleaned = layouts.clean({n: t for n, t in averaged.items() if isinstance(t, Tensor)})
        notes.append("its averaged weights (state_dict_ema)")
    check_dense(cleaned, raw.path)
    state = layouts.to_ours(cleaned, layout) if layout != "ours" else dict(cleaned)
    ours = _our_note(raw, layout)
    if "normalizer" not in state:
        state["normalizer"] = torch.tensor(100.0)
        notes.append("it does not say what its losses were divided by: 100, as at the start of training")
    axes = {"embed.0.conv.weight": 3, "classify.out.weight": 3, "classify.out.bias": 1, "scales": 1}
    wrong = [name for name, ndim in axes.items() if name not in state or state[name].ndim != ndim]
    if wrong:
        raise UserError(
            f"expected a whole temporal detector in {raw.path}, got one without {wrong[0]}; give the file "
            "that its training wrote"
        )
    out = state["classify.out.bias"]
    return Checkpoint(
        state=state,
        kind="localizer",
        layout=layout,
        source=source,
        num_classes=len(out),
        class_names=_class_names(ours, raw, len(out)),
        metadata=(ours or {}).get("extra", {}),
        notes=tuple(notes),
    )


def slice_head(checkpoint: Checkpoint, label_map: str | Path | Sequence[int]) -> Checkpoint:
    """The same checkpoint with a head for the classes of `label_map` only (released: 710 -> 400, 600 or 700).

    UserError where there is no head, or the map does not fit it.
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


def read_label_map(label_map: str | Path | Sequence[int], num_old: int) -> list[int]:
    """Old class numbers, one for each new class in order, checked against a head of `num_old` classes.

    A file is JSON: a list of old class numbers (released `misc/label_710to400.json`), or an object from new
    class numbers (or class names, taken in their order) to old ones. UserError names the entry that is wrong.
    """
    if isinstance(label_map, str | Path):
        name, entries = str(label_map), _read_entries(Path(label_map))
    else:
        name, entries = "given", list(label_map)
    if not entries:
        raise UserError(f"the label map {name} is empty; it needs one old class number for each new class")
    for new, old in enumerate(entries):
        if not isinstance(old, int) or isinstance(old, bool) or not 0 <= old < num_old:
            raise UserError(
                f"the label map {name} sends class {new} to {shown(old)}, but the checkpoint's head has "
                f"classes 0 to {num_old - 1}; give a map made for this checkpoint"
            )
    return entries


def _read_entries(path: Path) -> list[Any]:
    """The entries of a label map's file, in the order of the new classes."""
    wanted = "give a JSON list of old class numbers"
    if not there(path):
        raise UserError(f"there is no label map file {quoted(path)}; {wanted}")
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"the label map cannot be read: {error}; {wanted}") from error
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise UserError(f"the label map {path} holds a {type(content).__name__}; {wanted}")
    if not all(name.isdecimal() for name in content):
        return list(content.values())
    numbered = {int(name[:20]): old for name, old in content.items()}
    if sorted(numbered) != list(range(len(content))):
        raise UserError(
            f"the label map {path} does not number its new classes 0 to {len(content) - 1}; fill the gaps"
        )
    return [numbered[new] for new in range(len(numbered))]


def _our_note(raw: RawWeights, layout: str) -> dict[str, Any] | None:
    """What this package wrote beside the tensors, in whichever layout."""
    note: Any = raw.metadata.get(OUR_KEY) or raw.extras.get(OUR_KEY)
    if note is None and layout == "transformers":
        note = raw.config.get(OUR_KEY)
    if isinstance(note, str):
        try:
            note = json.loads(note)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{raw.path} holds unreadable metadata; write it again with this package"
            ) from error
    if note is None:
        return None
    known = {"format": int, "class_names": list | tuple, "extra": Mapping, "settings": Mapping | None}
    if not isinstance(note, Mapping):
        raise UserError(
            f"expected an object as the metadata of {raw.path}, got {shown(note)}; write it again"
        )
    for key, kind in known.items():
        if key in note and (not isinstance(note[key], kind) or note[key] is True):
            raise UserError(
                f"expected {key} in the metadata of {raw.path} to be of another type, got "
                f"{shown(note[key])}; write it again with this package"
            )
    if note.get("format", 0) > FORMAT_VERSION:
        raise UserError(
            f"{raw.path} was written by a newer version of this package: expected format {FORMAT_VERSION} or "
            f"older, got {shown(note['format'])}; update the package"
        )
    return dict(note)


def settings_from(content: Mapping[str, Any], source: object) -> ModelSettings:
    """The network's settings in what this package wrote beside its weights; UserError where they are none."""
    known = known_settings(ModelSettings)
    unknown = sorted(quoted(name) for name in content if name not in known)
    if unknown:
        raise UserError(
            f"{source} has model settings this version does not know ({quoted(', '.join(unknown))}); "
            "update the package"
        )
    where = f"in the metadata of {source}"
    return ModelSettings(**{name: known[name].take(value, where) for name, value in content.items()})


def _kind(state: Mapping[str, Tensor]) -> str:
    if "mask_token" in state or any(name.startswith("decoder.") for name in state):
        return "pretrain"
    if "token_norm.weight" in state:
        return "detector"
    return "classifier" if "head.weight" in state else "encoder"


def _without_sinusoids(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Leave out stored position tables that are the sinusoid, which ours computes; any other is learned."""
    kept, notes = dict(state), []
    for name in [name for name in state if name.endswith(("pos_embed", "position_embeddings"))]:
        if state[name].ndim not in (2, 3) or state[name].shape[-1] % 2:
            raise UserError(
                f"expected {name} to be a position table [1, tokens, width], got {list(state[name].shape)}; "
                "is this another network's?"
            )
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


def _warnings(state: Mapping[str, Tensor], raw: RawWeights, layout: str, kind: str) -> list[str]:
    """What a user of somebody else's checkpoint should know before trusting its numbers."""
    notes = []
    eps = raw.config.get("layer_norm_eps")
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


def _few(names: Sequence[str]) -> str:
    first = ", ".join(name[:60] for name in names[:3])
    return f"{first}, {len(names) - 3} more" if len(names) > 3 else first


def _class_names(ours: Mapping[str, Any] | None, raw: RawWeights, num_classes: int | None) -> tuple[str, ...]:
    if ours is not None:
        names = tuple(ours.get("class_names", ()))
        if names and (len(names) != num_classes or not all(isinstance(name, str) for name in names)):
            raise UserError(
                f"expected the name of each of {num_classes or 0} classes in the metadata of {raw.path}, got "
                f"{shown(list(names))}; write it again with this package"
            )
        return names
    labels = raw.config.get("id2label")
    if isinstance(labels, dict):
        names = tuple(labels.get(str(number)) for number in range(len(labels)))
    else:  # MMEngine's
        kept: Any = raw.extras
        for key in ("meta", "dataset_meta", "classes"):
            kept = kept.get(key) if isinstance(kept, Mapping) else None
        names = tuple(kept) if isinstance(kept, list | tuple) else ()
    whole = len(names) == num_classes and all(isinstance(name, str) for name in names)
    return names if whole else ()
