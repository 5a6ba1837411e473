"""Load: a checkpoint into a module. What the caller expects must match; nothing is copied before it does.

The report names every tensor in few words, none left out: a branch as `decoder.*`, the same tensor of all
blocks as `blocks.0-11`.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from videomae2.errors import UserError
from videomae2.positions import interpolate
from videomae2.weights.contents import FIRST_TOKEN, Checkpoint, slice_head
from videomae2.weights.normalisation import not_finite

_TRUNK = ("encoder.patch_embed.", "encoder.blocks.", "encoder.pos_embed")
"""What every task's encoder has. Not its final norm, which classifiers replace by fc_norm."""

_TASK_PARTS = (
    "encoder.norm.", "encoder_to_decoder.", "decoder.", "mask_token", "fc_norm.", "head.",
)  # fmt: skip
"""What one task has and another has not: a new task may leave it behind. Any other tensor changes what the
encoder answers.
"""

_BLOCK = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor: names, and for those that changed or did not fit, how.

    As text, every name in few words.
    """

    source: str
    layout: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    """In the module, not in the file: left as they were."""
    unexpected: tuple[str, ...]
    """In the file, not in the module."""
    mismatched: tuple[str, ...] = ()
    """Of another shape, as "name [file] in the file, [module] in the model": left as they were."""
    resized: tuple[str, ...] = ()
    """Changed to fit: a head sliced by a label map, a learned position table interpolated."""
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every tensor of the module came from the file, and none was left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        head = f"{self.source} ({self.layout} layout): {len(self.matched)} tensors matched, " + ", ".join(
            f"{len(getattr(self, part))} {part}"
            for part in ("missing", "unexpected", "mismatched", "resized")
        )
        there = (*self.matched, *(item.split(" ")[0] for item in self.mismatched))
        lines = [head]
        for part in ("missing", "unexpected"):
            names = getattr(self, part)
            lines += [f"  {part}: {', '.join(grouped(names, there))}"] if names else []
        for part in ("mismatched", "resized"):
            lines += [f"  {part}: {item}" for item in folded_blocks(getattr(self, part))]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def load_into(
    module: nn.Module,
    checkpoint: Checkpoint,
    *,
    expect: Literal["same", "encoder"] = "same",
    allow_partial: bool = False,
    label_map: str | Path | Sequence[int] | None = None,
) -> LoadReport:
    """Copy a checkpoint into a module (autoencoder, classifier or bare encoder) and report on every tensor.

    expect="same": both must hold the same tensors. expect="encoder": every tensor of the encoder's trunk must
    match, and decoder, final norm, fc_norm and head may differ (what fits by name and shape is taken, as the
    released fine-tuning does). Anything else raises UserError before a value is copied, unless
    `allow_partial`. Stored fp16 and bf16 become the module's own type.
    """
    checkpoint = slice_head(checkpoint, label_map) if label_map is not None else checkpoint
    targets = _targets(module)
    state, resized = _with_resized_positions(checkpoint.state, checkpoint, module)
    report = _compare(checkpoint, state, targets, resized)
    if not allow_partial:
        _refuse(report, checkpoint, expect)
    elif not report.matched:
        raise UserError(
            f"nothing in {checkpoint.source} fits this model; it holds {checkpoint.sketch}; build that model"
        )
    broken = not_finite({name: state[name] for name in report.matched})
    if broken:
        raise UserError(
            f"expected finite weights in {report.source}, got NaN or infinity in {len(broken)} tensors "
            f"({_first(broken)}); its training diverged, or the file is damaged"
        )
    with torch.no_grad():
        for name in report.matched:
            targets[name].copy_(state[name])
    return report


def _targets(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors under checkpoint names: no `_orig_mod.`, and a bare encoder's with `encoder.`."""
    own = {name.replace("_orig_mod.", ""): tensor for name, tensor in module.state_dict().items()}
    # A temporal detector has no encoder at all.
    bare = not any(name.startswith(("encoder.", "classify.")) for name in own)
    return {f"encoder.{name}": tensor for name, tensor in own.items()} if bare else own


def _compare(
    checkpoint: Checkpoint, state: dict[str, Tensor], targets: dict[str, Tensor], resized: tuple[str, ...]
) -> LoadReport:
    both = [name for name in targets if name in state]
    wrong = [name for name in both if state[name].shape != targets[name].shape]
    matched = [name for name in both if state[name].shape == targets[name].shape]
    casts = {
        f"{_type(state[n])} read into {_type(targets[n])}"
        for n in matched
        if state[n].dtype != targets[n].dtype
    }
    return LoadReport(
        source=checkpoint.source,
        layout=checkpoint.layout,
        matched=tuple(matched),
        missing=tuple(name for name in targets if name not in state),
        unexpected=tuple(name for name in state if name not in targets),
        mismatched=tuple(
            f"{n} {list(state[n].shape)} in the file, {list(targets[n].shape)} in the model" for n in wrong
        ),
        resized=checkpoint.resized + resized,
        notes=(*checkpoint.notes, *sorted(casts)),
    )


def _refuse(report: LoadReport, checkpoint: Checkpoint, expect: str) -> None:
    """Raise where the report holds something that `expect` does not allow for."""
    mismatched, missing = (
        [item for item in part if expect == "same" or item.startswith(_TRUNK)]
        for part in (report.mismatched, report.missing)
    )
    # The other way round: what a stranger's network has and ours has not is forgiven only where it is known.
    unexpected = [
        name for name in report.unexpected if expect == "same" or not _may_be_left(name, checkpoint.layout)
    ]
    holds = f"the file seems to hold {checkpoint.sketch}"
    if mismatched:
        advice = "build that model, or give this model's weights"
        if mismatched[0].startswith("head."):
            advice = "give a label map, or start a fresh head"
        raise UserError(f"{report.source} does not fit this model: {mismatched[0]}; {holds}; {advice}")
    if missing or unexpected:
        parts = [
            f"{len(names)} {what} ({_first(names)})"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        reasons = f"; {FIRST_TOKEN}" if FIRST_TOKEN in checkpoint.notes else ""
        raise UserError(
            f"{report.source} matches this model only in part: {' and '.join(parts)}; {holds}{reasons}; "
            "build that model, give this model's weights, load the encoder alone, or allow a partial match"
        )


def _may_be_left(name: str, layout: str) -> bool:
    """Whether another task's network may do without this tensor and answer the same from its encoder."""
    return name.startswith(_TASK_PARTS) or (layout == "ours" and not name.startswith("encoder."))


def _with_resized_positions(
    state: dict[str, Tensor], checkpoint: Checkpoint, module: nn.Module
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A learned table of another grid, interpolated to the module's, where both grids are known."""
    name = "encoder.pos_embed"
    # Any module will do whose encoder carries its EncoderConfig: this room knows no class of models/.
    config = getattr(getattr(module, "encoder", module), "config", None)
    if (
        name not in state
        or checkpoint.architecture is None
        or config is None
        or config.positions != "learned"
    ):
        return state, ()
    theirs, ours = checkpoint.architecture.grid.shape, config.grid.shape
    if theirs == ours:
        return state, ()
    table = interpolate(state[name][0].float(), theirs, ours)[None]
    shapes = f"{list(state[name].shape)} -> {list(table.shape)}"
    change = f"{name} {shapes}, interpolated from {theirs} to {ours} tokens"
    return state | {name: table}, (change,)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (" ..." if len(names) > 2 else "")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def grouped(names: Sequence[str], others: Collection[str] = ()) -> list[str]:
    """The names, shortened so that each still follows from what is printed.

    A branch becomes `branch.* (count)` where it holds several of the names and none of `others`, which share
    the tree.
    """
    branches: dict[str, list[str]] = {}
    for name in names:
        branches.setdefault(_branch(name, others), []).append(name)
    return folded_blocks(
        [f"{branch} ({len(held)})" if len(held) > 1 else held[0] for branch, held in branches.items()]
    )


def folded_blocks(lines: Sequence[str]) -> list[str]:
    """Lines that differ only in the number of a block become one, with the range of numbers."""
    numbers: dict[str, list[int]] = {}
    for line in lines:
        found = _BLOCK.search(line)
        stem = _BLOCK.sub("blocks.{}.", line, count=1)
        numbers.setdefault(stem, []).extend([int(found[1])] if found else [])
    each = {
        stem: re.sub(r"\((\d+)\)$", r"(\1 each)", stem) if len(found) > 1 else stem
        for stem, found in numbers.items()
    }
    return [each[stem].replace("{}", _ranges(found), 1) for stem, found in numbers.items()]


def _branch(name: str, others: Collection[str]) -> str:
    """The largest branch around a name that none of the others grows on, as `branch.*`; else the name."""
    words = name.split(".")
    for depth in range(1, len(words)):
        stem = ".".join(words[:depth]) + "."
        if not any(other.startswith(stem) for other in others):
            return f"{stem}*"
    return name


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
