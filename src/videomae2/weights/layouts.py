"""What other projects call the same tensors: pure maps from names to names, there and back.

| layout       | whose                                     | patch embedding                                 |
|--------------|-------------------------------------------|-------------------------------------------------|
| ours         | this package: always with `encoder.`      | encoder.patch_embed.proj                        |
| released     | VideoMAE V1 and V2 `.pth`                 | encoder.patch_embed.proj or patch_embed.proj    |
| hub          | `OpenGVLab/VideoMAEv2-*` repositories     | model.patch_embed.proj                          |
| transformers | `VideoMAEForPreTraining` and its siblings | videomae.embeddings.patch_embeddings.projection |
| mmaction2    | MMAction2 and OpenTAD `VisionTransformer` | backbone.patch_embed.projection                 |

Ours are the released names of pre-training; released classifiers have no `encoder.` before theirs. A temporal
detector has no patch embedding; ours is told by `classify.out`, ActionFormer's by `backbone.embd.`.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from videomae2.errors import UserError

LAYOUTS = ("ours", "released", "hub", "transformers", "mmaction2", "actionformer")

State = dict[str, Tensor]

_TRANSFORMERS_BLOCK = {
    "attention.attention.q_bias": "attn.q_bias",
    "attention.attention.v_bias": "attn.v_bias",
    "attention.attention.query.weight": "attn.query",
    "attention.attention.key.weight": "attn.key",
    "attention.attention.value.weight": "attn.value",
    "attention.output.dense.weight": "attn.proj.weight",
    "attention.output.dense.bias": "attn.proj.bias",
    "intermediate.dense.weight": "mlp.fc1.weight",
    "intermediate.dense.bias": "mlp.fc1.bias",
    "output.dense.weight": "mlp.fc2.weight",
    "output.dense.bias": "mlp.fc2.bias",
    "layernorm_before.weight": "norm1.weight",
    "layernorm_before.bias": "norm1.bias",
    "layernorm_after.weight": "norm2.weight",
    "layernorm_after.bias": "norm2.bias",
}
"""On disk the biases are q_bias and v_bias; a state dict taken from memory says query.bias and value.bias."""

_IN_MEMORY = {
    "attention.attention.query.bias": "attn.q_bias",
    "attention.attention.value.bias": "attn.v_bias",
}

_MMACTION2_MLP = {"mlp.layers.0.0.": "mlp.fc1.", "mlp.layers.1.": "mlp.fc2."}

_ENCODER_PARTS = ("patch_embed.", "blocks.", "norm.", "pos_embed", "cls_token")

_WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

_ACTIONFORMER = (
    (r"^backbone\.embd\.(\d+)\.conv\.", r"embed.\1.conv."),
    (r"^backbone\.embd_norm\.(\d+)\.", r"embed.\1.norm."),
    (r"^backbone\.stem\.", "stem."),
    (r"^backbone\.branch\.", "pyramid."),
    (r"^neck\.fpn_norms\.", "norms."),
    (r"^cls_head\.cls_head\.conv\.", "classify.out."),
    (r"^reg_head\.offset_head\.conv\.", "regress.out."),
    (r"^cls_head\.head\.(\d+)\.", r"classify.layers.\1."),
    (r"^cls_head\.norm\.(\d+)\.", r"classify.layers.\1.norm."),
    (r"^reg_head\.head\.(\d+)\.", r"regress.layers.\1."),
    (r"^reg_head\.norm\.(\d+)\.", r"regress.layers.\1.norm."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.3\.", ".fc2."),
    (r"\.drop_path_attn\.scale$", ".scale1"),
    (r"\.drop_path_mlp\.scale$", ".scale2"),
    (r"_conv\.conv\.", "_conv."),
)
"""ActionFormer's names and ours, in the order in which they are replaced."""

_PATCH_EMBEDDING = re.compile(
    r"^(?P<outer>(?:.+?\.)??)(?:(?:backbone\.|encoder\.)?(?P<patch>patch_embed\.proj|patch_embed\.projection)"
    r"|(?:videomae\.)?embeddings\.(?P<theirs>patch_embeddings\.projection))\.weight$"
)
_LAYOUT_OF_PATCH = {None: "transformers", "patch_embed.projection": "mmaction2"}

_HEADS = ("head.", "fc_norm.", "norm.", "cls_head.fc_cls.")
"""What a classifier has beside its encoder; elsewhere it may lie outside the encoder's name."""

_HARMLESS = re.compile(
    r"(^|\.)(criterion|loss|losses|loss_\w+|metrics?|\w*acc|\w*accuracy|num_batches_tracked|n_averaged|"
    r"total_ops|total_params)(\.|$)"
)
"""What trainers and counters leave among a network's tensors, and no forward reads."""


def clean(state: Mapping[str, Tensor]) -> State:
    """The same tensors without what wrappers add to names, at whichever depth.

    Wrappers are DDP (`module.`), torch.compile (`_orig_mod.`), FSDP and activation checkpointing. UserError
    where two names become one.
    """
    cleaned = {
        ".".join(word for word in name.split(".") if word not in _WRAPPERS): tensor
        for name, tensor in state.items()
    }
    if len(cleaned) < len(state):
        raise UserError(
            "expected one network, but the checkpoint holds two networks (the same names with and without "
            "`module.`); save the one you mean"
        )
    return cleaned


class Network(NamedTuple):
    """The network in a checkpoint: its tensors by the names of its layout, and what lies around it."""

    state: State
    layout: str
    around: tuple[str, ...]
    """Names of tensors that belong to other modules of the program that trained it: losses, metrics."""


def find_network(state: Mapping[str, Tensor]) -> Network:
    """The network among cleaned tensors, under whatever name a trainer keeps it (`model.`, `net.backbone.`).

    Whatever lies inside it is kept, known or not, and so are norms and heads beside it. UserError names a few
    tensors where there is no VideoMAE, and the places of two.
    """
    matches = [match for name in state if (match := _PATCH_EMBEDDING.match(name))]
    roots = {match.string.rpartition("patch_embed")[0] for match in matches}
    if not matches:
        some = ", ".join(name[:60] for name in list(state)[:3]) or "none at all"
        raise UserError(
            f"these are not a VideoMAE's weights: expected a patch embedding as in {', '.join(LAYOUTS)}, got "
            f"{len(state)} tensors without one ({some} ...); give weights in one of these layouts"
        )
    if len(roots) > 1:
        first, second = (f"`{root}`" if root else "no prefix" for root in sorted(roots)[:2])
        raise UserError(
            f"expected one network, but the checkpoint holds two networks (under {first} and {second}); save "
            "the one you mean"
        )
    outer, patch = matches[0]["outer"], matches[0]["patch"]
    layout = _LAYOUT_OF_PATCH.get(patch, "hub" if outer == "model." else "released")
    found: State = {}
    around = []
    for name, tensor in state.items():
        own = _inside(name, outer, layout)
        if own is None or _HARMLESS.search(own):
            around.append(name)
        elif own in found:
            raise UserError(f"expected one {own}, but the checkpoint holds two of it; save the one you mean")
        else:
            found[own] = tensor
    return Network(found, layout, tuple(around))


def _inside(name: str, outer: str, layout: str) -> str | None:
    """The name inside the network that lies under `outer`; None where it belongs to something around it."""
    if name.startswith(outer):
        return name.removeprefix(outer)
    heads = (*_HEADS, "classifier.") if layout == "transformers" else _HEADS
    words = outer.split(".")[:-1]
    for depth in range(len(words) - 1, -1, -1):
        parent = "".join(f"{word}." for word in words[:depth])
        if name.startswith(parent) and name.removeprefix(parent).startswith(heads):
            return name.removeprefix(parent)
    return None


def to_ours(state: Mapping[str, Tensor], layout: str) -> State:
    """Cleaned tensors of `layout` under our names; unknown names pass through, for `load` to report."""
    return _READERS[layout](state)


def localizer_layout(state: Mapping[str, Tensor]) -> str | None:
    """Whose names a temporal detector's cleaned tensors have: ours, actionformer; None where it is none."""
    if any(name.startswith("backbone.embd.") for name in state):
        return "actionformer"
    return "ours" if {"classify.out.weight", "scales"} <= state.keys() else None


def to_released(state: Mapping[str, Tensor], kind: str) -> State:
    """Our tensors under the released names: pre-training keeps `encoder.`, a classifier drops it."""
    return {
        name if kind == "pretrain" else name.removeprefix("encoder."): tensor
        for name, tensor in state.items()
    }


def to_transformers(state: Mapping[str, Tensor]) -> State:
    """Our tensors under the names that `transformers` writes to disk; UserError where it has no such part."""
    renamed: State = {}
    for name, tensor in state.items():
        for new, part in _to_transformers_name(name, tensor):
            renamed[new] = part
    return renamed


def _from_ours(state: Mapping[str, Tensor]) -> State:
    if any(name.startswith("encoder.") for name in state):
        return dict(state)
    return {_under_encoder(name): tensor for name, tensor in state.items()}


def _from_released(state: Mapping[str, Tensor]) -> State:
    if "mask_token" in state:  # a pre-training network: its names are ours
        return dict(state)
    bare = {name.removeprefix("backbone.").removeprefix("encoder."): tensor for name, tensor in state.items()}
    if len(bare) < len(state):
        raise UserError(
            "expected one network, but the checkpoint holds two networks (names with and without `encoder.` "
            "or `backbone.`); save the one you mean"
        )
    return {_under_encoder(name): tensor for name, tensor in bare.items()}


def _from_mmaction2(state: Mapping[str, Tensor]) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        new = name.replace("patch_embed.projection.", "patch_embed.proj.").replace(
            "cls_head.fc_cls.", "head."
        )
        for old, ours in _MMACTION2_MLP.items():
            new = new.replace(old, ours)
        renamed[new] = tensor
    return _from_released(renamed)


def _from_actionformer(state: Mapping[str, Tensor]) -> State:
    renamed: State = {}
    scales: dict[int, Tensor] = {}
    for name, tensor in state.items():
        level = re.fullmatch(r"reg_head\.scale\.(\d+)\.scale", name)
        if level:
            scales[int(level[1])] = tensor
            continue
        ours = name
        for theirs, replacement in _ACTIONFORMER:
            ours = re.sub(theirs, replacement, ours)
        # Its norms and factors are [1, D, 1], and its linear layers convolutions over one feature, as its
        # sequences are [B, D, L]; ours are [B, L, D].
        channels = tensor.ndim == 3 and tensor.shape[0] == tensor.shape[2] == 1 and "conv" not in ours
        linear = tensor.ndim == 3 and re.search(r"\.(query|key|value|proj|fc1|fc2)\.weight$", ours)
        renamed[ours] = tensor.flatten() if channels else tensor.squeeze(2) if linear else tensor
    if scales:
        renamed["scales"] = torch.stack([scales[level].reshape(()) for level in sorted(scales)])
    return renamed


def _from_transformers(state: Mapping[str, Tensor]) -> State:
    # A bare VideoMAEModel writes no `videomae.` prefix, so its encoder's layers start with `encoder.`.
    renamed = {
        _from_transformers_name(name.removeprefix("videomae.")): tensor for name, tensor in state.items()
    }
    # Ours, as the released code, has one linear layer for queries, keys and values: stack the three.
    for query in [name for name in renamed if name.endswith(".attn.query")]:
        stem = query.removesuffix("query")
        parts = [renamed.get(stem + part) for part in ("query", "key", "value")]
        if all(part is not None for part in parts):
            for part in ("query", "key", "value"):
                del renamed[stem + part]
            renamed[stem + "qkv.weight"] = torch.cat([part for part in parts if part is not None])
    return renamed


def _from_transformers_name(name: str) -> str:
    name = name.replace("embeddings.patch_embeddings.projection.", "encoder.patch_embed.proj.")
    name = re.sub(r"^embeddings\.position_embeddings$", "encoder.pos_embed", name)
    name = re.sub(r"^layernorm\.", "encoder.norm.", re.sub(r"^classifier\.", "head.", name))
    block = re.match(r"^(encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.*)$", name)
    if block is None:
        return name
    ours = (_TRANSFORMERS_BLOCK | _IN_MEMORY).get(block.group(3), block.group(3))
    return f"{block.group(1).split('.')[0]}.blocks.{block.group(2)}.{ours}"


def _to_transformers_name(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    block = re.match(r"^(encoder|decoder)\.blocks\.(\d+)\.(.*)$", name)
    if block is None:
        name = name.replace("encoder.patch_embed.proj.", "videomae.embeddings.patch_embeddings.projection.")
        name = re.sub(r"^head\.", "classifier.", re.sub(r"^encoder\.norm\.", "videomae.layernorm.", name))
        return [(name, tensor)]
    stem = (
        "videomae.encoder.layer" if block.group(1) == "encoder" else "decoder.decoder_layers"
    ) + f".{block.group(2)}."
    if block.group(3) == "attn.qkv.weight":
        parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return [(f"{stem}attention.attention.{part}.weight", third.contiguous()) for part, third in parts]
    theirs = {ours: old for old, ours in _TRANSFORMERS_BLOCK.items()}.get(block.group(3))
    if theirs is None:
        raise UserError(f"transformers' VideoMAE has no part like {name}; write the released layout instead")
    return [(stem + theirs, tensor)]


def _under_encoder(name: str) -> str:
    return f"encoder.{name}" if name.startswith(_ENCODER_PARTS) else name


_READERS: dict[str, Callable[[Mapping[str, Tensor]], State]] = {
    "ours": _from_ours,
    "released": _from_released,
    "hub": _from_released,
    "transformers": _from_transformers,
    "mmaction2": _from_mmaction2,
    "actionformer": _from_actionformer,
}
