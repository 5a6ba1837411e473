"""What a checkpoint is, as text (`videomae2 weights show`), and in another layout (`weights convert`)."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from videomae2.errors import UserError
from videomae2.weights.contents import Checkpoint, read_checkpoint, slice_head
from videomae2.weights.fetch import quoted
from videomae2.weights.normalisation import not_finite
from videomae2.weights.write import save_safetensors, write_released, write_transformers

WRITERS: dict[str, Callable[..., Path]] = {
    "ours": save_safetensors,
    "released": write_released,
    "transformers": write_transformers,
}


def describe(weights: Checkpoint | str | Path) -> str:
    """Lines of text: network, kind, layout, types, clips, classes, what is not there, notes, every tensor."""
    checkpoint = weights if isinstance(weights, Checkpoint) else read_checkpoint(weights)
    sizes = sum(tensor.numel() for tensor in checkpoint.state.values())
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in checkpoint.state.values()})
    lines = [
        quoted(checkpoint.source),
        f"  network     {checkpoint.sketch}",
        f"  kind        {checkpoint.kind}",
        f"  layout      {checkpoint.layout}",
        f"  parameters  {sizes:,} in {len(checkpoint.state)} tensors ({', '.join(types)})",
        f"  classes     {_classes(checkpoint)}",
    ]
    if checkpoint.kind != "localizer":  # it sees features, and has none of an encoder's parts
        lines.insert(-1, f"  clips       {_clips(checkpoint)}")
        lines.append(f"  not there   {', '.join(_absent(checkpoint)) or 'nothing'}")
    notes = list(checkpoint.notes)
    if broken := not_finite(checkpoint.state):
        notes.append(f"NaN or infinity in {len(broken)} tensors, first {broken[0]}: nothing will load them")
    lines += [f"  note        {note}" for note in notes]
    return "\n".join([*lines, "  tensors", *_tensor_table(checkpoint)])


def convert(
    source: Checkpoint | str | Path,
    target: str | Path,
    layout: str = "ours",
    *,
    label_map: str | Path | Sequence[int] | None = None,
) -> Checkpoint:
    """Write weights to `target` as ours (.safetensors), released (.pth) or transformers (a folder).

    `label_map` slices the head first. UserError for what the layout cannot hold.
    """
    if layout not in WRITERS:
        raise UserError(f"layout: expected one of {', '.join(WRITERS)}, got {layout!r}")
    suffix = {"ours": ".safetensors", "released": ".pth"}.get(layout, "")
    if suffix and Path(target).suffix != suffix:
        raise UserError(
            f"expected a file that ends with {suffix}, as the {layout} layout does, got {target}; try "
            f"{Path(target).with_suffix(suffix)}"
        )
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    checkpoint = checkpoint if label_map is None else slice_head(checkpoint, label_map)
    if checkpoint.kind == "localizer" and layout != "ours":
        raise UserError(
            f"expected layout ours for a temporal detector, got {layout}; no other layout is written"
        )
    if checkpoint.settings is None and layout == "transformers":
        raise UserError(
            f"{checkpoint.source} does not say which network it is ({'; '.join(checkpoint.notes)}), and "
            "config.json must"
        )
    WRITERS[layout](
        target,
        checkpoint.state,
        checkpoint.settings,
        checkpoint.kind,
        class_names=checkpoint.class_names,
        extra=checkpoint.metadata,
    )
    return checkpoint


def _clips(checkpoint: Checkpoint) -> str:
    return "unknown" if checkpoint.architecture is None else str(checkpoint.architecture.grid)


def _classes(checkpoint: Checkpoint) -> str:
    if not checkpoint.num_classes:
        return "none"
    names = ", ".join(checkpoint.class_names[:4]) + (" ..." if len(checkpoint.class_names) > 4 else "")
    return f"{checkpoint.num_classes}" + (f" ({names})" if names else "")


def _absent(checkpoint: Checkpoint) -> list[str]:
    """The parts of a pre-training model and of a classifier that this file does not hold."""
    parts = {
        "decoder": "mask_token",
        "final norm": "encoder.norm.weight",
        "fc_norm": "fc_norm.weight",
        "head": "head.weight",
    }
    return [part for part, name in parts.items() if name not in checkpoint.state]


def _tensor_table(checkpoint: Checkpoint) -> list[str]:
    """Every tensor with its shape, one line for those of all blocks that are alike."""
    alike: dict[str, list[str]] = {}
    for name, tensor in checkpoint.state.items():
        shown = f"{re.sub(r'blocks[.][0-9]+[.]', 'blocks.*.', name)} {list(tensor.shape)}"
        alike.setdefault(shown, []).append(name)
    return [
        f"    {shown}" + (f" in {len(names)} blocks" if len(names) > 1 else "")
        for shown, names in alike.items()
    ]
