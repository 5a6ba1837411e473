"""Which network a checkpoint is: what its tensors' shapes say, and what only its configuration can say.

Neither heads, nor frames, nor pixels leave a trace in shapes. Heads come from a configuration, the scales of
cosine attention, or the size table; frames and pixels from a configuration, else they are 16 x 224 x 224.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from videomae2.architecture import MAX_DEPTH, SIZES, architecture_of
from videomae2.config import known_settings
from videomae2.errors import UserError
from videomae2.settings import ModelSettings
from videomae2.weights.fetch import quoted
from videomae2.weights.pickles import RawWeights

_CUBE = "encoder.patch_embed.proj.weight"  # [D, C, t, p, p]
_MLP = "{}.blocks.0.mlp.fc1.weight"  # [hidden, D]
_COSINE = "{}.blocks.0.attn.scale"  # [heads, 1, 1]
_BRIDGE = "encoder_to_decoder.weight"  # [decoder D, encoder D]


def check_encoder(state: Mapping[str, Tensor]) -> None:
    """Refuse tensors (under our names) without the parts that every question below reads."""
    for name in (_CUBE, _MLP.format("encoder")):
        if name not in state:
            raise UserError(
                f"the checkpoint has no {name}, so it holds no whole encoder; give the file that holds one"
            )
    for name in (_MLP.format("encoder"), _MLP.format("decoder"), _BRIDGE, "head.weight"):
        if name in state and state[name].ndim != 2:
            raise UserError(
                f"expected {name} to be a matrix, got shape {list(state[name].shape)}; is this another "
                "network's?"
            )
    for part in ("encoder", "decoder"):
        _check_blocks(state, part)
    if state[_CUBE].ndim != 5:
        raise UserError(
            "expected a video model's patch embedding [width, channels, tubelet, patch, patch], got "
            f"{list(state[_CUBE].shape)}; is this an image model?"
        )


def check_agrees(settings: ModelSettings, state: Mapping[str, Tensor], kind: str, source: object) -> None:
    """Refuse settings, as a file states them, of another network than its tensors are.

    What is built follows the settings: this bounds it by what the file holds.
    """
    architecture = architecture_of(settings, decoder=kind == "pretrain")
    encoder, decoder, grid = architecture.encoder, architecture.decoder, architecture.grid
    pairs: list[tuple[str, Any, Any]] = [
        ("width", encoder.width, state[_CUBE].shape[0]),
        ("depth", encoder.depth, _depth(state, "encoder")),
        ("cubes", (grid.channels, grid.tubelet, grid.patch, grid.patch), tuple(state[_CUBE].shape[1:])),
        ("learned tokens", encoder.num_learned_positions, _learned_tokens(state)),
        ("MLP", encoder.mlp_width, _length(state, _MLP.format("encoder"))),
    ]
    if decoder is not None:
        pairs += [
            ("decoder width", decoder.width, _length(state, _BRIDGE)),
            ("decoder depth", decoder.depth, _depth(state, "decoder")),
        ]
    for what, stated, held in pairs:
        if stated != held:
            raise UserError(
                f"{quoted(source)} states {what} {stated} and holds tensors of {what} {held}; write it again "
                "from the network it came from"
            )


def _check_blocks(state: Mapping[str, Tensor], part: str) -> None:
    """Refuse blocks that are numbered with gaps, or differ in size: the last says how many are built."""
    depth = _depth(state, part)
    first = state.get(_MLP.format(part))
    for number in range(min(depth, MAX_DEPTH)):
        name = f"{part}.blocks.{number}.mlp.fc1.weight"
        if first is None or name not in state or state[name].shape != first.shape:
            raise UserError(
                f"expected {depth} blocks alike in {part}.blocks, got none or another one at number "
                f"{number}; is the file whole?"
            )


def in_words(state: Mapping[str, Tensor]) -> str:
    """The network as its shapes tell it, in one line: size, width, depth, cubes, decoder, head."""
    if "classify.out.weight" in state and "embed.0.conv.weight" in state:
        width, inputs, _ = state["embed.0.conv.weight"].shape
        levels, classes = len(state["scales"]), len(state["classify.out.weight"])
        return f"temporal detector of width {width} and {levels} levels on {inputs} values, {classes} classes"
    width, _, *cube = state[_CUBE].shape
    depth = _depth(state, "encoder")
    row = _row(width)
    exact = row is not None and (SIZES[row].depth, SIZES[row].patch) == (depth, cube[1])
    decoder_width, num_classes = _length(state, _BRIDGE), num_classes_of(state)
    decoder = f"decoder of width {decoder_width} and depth {_depth(state, 'decoder')}"
    parts = [
        f"width {width}",
        f"depth {depth}",
        f"{'x'.join(map(str, cube))} cubes",
        decoder if decoder_width else "no decoder",
        f"head of {num_classes} classes" if num_classes else "no head",
    ]
    return f"{row if exact else 'a vision transformer'} ({', '.join(parts)})"


def num_classes_of(state: Mapping[str, Tensor]) -> int | None:
    """Classes of the head, where there is one."""
    return _length(state, "head.weight")


def recognise(state: Mapping[str, Tensor], raw: RawWeights, kind: str) -> tuple[ModelSettings | None, str]:
    """Settings that build this network, or None and the reason why they cannot be known or written down.

    `state` holds the tensors under our names, `raw` the file they came from; `kind` as in `Checkpoint`.
    """
    width, channels, tubelet, height, patch = state[_CUBE].shape
    mlp_width, cosine_heads = (
        _length(state, _MLP.format("encoder")),
        _length(state, _COSINE.format("encoder")),
    )
    stated, row = _stated(raw), _row(width)
    heads = stated.get("num_heads") or cosine_heads or (SIZES[row].num_heads if row else None)
    if not heads:
        reason = f"the number of heads of width {width} stands nowhere in it; name the model yourself"
        return None, reason
    name = _row_of_ratio(width, mlp_width)
    if name is None or channels != 3 or height != patch:
        cube = (tubelet, height, patch)
        return None, f"no model settings describe it: MLP {mlp_width}, {channels} channels, cube {cube}"
    frames, size = stated.get("num_frames") or 16, stated.get("size") or 224
    # Released fine-tuning interpolates the table of 16 x 224 x 224 to other grids; everyone else makes one
    # for the grid at hand.
    native_frames, native_size = (16, 224) if stated.get("native_16x224") else (frames, size)
    settings = ModelSettings(
        name=name,
        num_frames=frames,
        size=size,
        tubelet=tubelet,
        patch=_unless(patch, SIZES[name].patch),
        width=_unless(width, SIZES[name].width),
        depth=_unless(_depth(state, "encoder"), SIZES[name].depth),
        num_heads=_unless(heads, SIZES[name].num_heads),
        native_frames=native_frames,
        native_size=native_size,
        positions="learned" if _learned_tokens(state) else "sinusoid",
        cosine_attention=cosine_heads is not None,
        layer_scale=0.1 if "encoder.blocks.0.gamma_1" in state else 0.0,
    )
    if kind == "pretrain":
        settings = _with_decoder(settings, state, stated)
    reason = _contradiction(settings, state, kind)
    return (None, reason) if reason else (settings, "")


def _with_decoder(
    settings: ModelSettings, state: Mapping[str, Tensor], stated: Mapping[str, Any]
) -> ModelSettings:
    size = SIZES[settings.name]
    heads = stated.get("decoder_heads") or _length(state, _COSINE.format("decoder"))
    return replace(
        settings,
        decoder_depth=_depth(state, "decoder"),
        decoder_width=_unless(_length(state, _BRIDGE), size.decoder_width),
        decoder_heads=_unless(heads, size.decoder_heads),
    )


def _contradiction(settings: ModelSettings, state: Mapping[str, Tensor], kind: str) -> str:
    """Why the settings do not build tensors of these shapes after all; empty where they do."""
    try:
        architecture = architecture_of(settings, decoder=kind == "pretrain")
    except UserError as error:
        return f"no model settings describe it: {error}"
    encoder, decoder = architecture.encoder, architecture.decoder
    mlp_width, tokens = _length(state, _MLP.format("encoder")), _learned_tokens(state)
    if encoder.mlp_width != mlp_width:
        return f"no model settings describe its MLP of {mlp_width} at width {encoder.width}"
    if tokens and tokens != encoder.grid.num_tokens:
        return f"its position table has {tokens} tokens, and {encoder.grid} does not; name the model yourself"
    decoder_mlp = _length(state, _MLP.format("decoder"))
    if decoder is not None and decoder.mlp_width != decoder_mlp:
        return f"no model settings describe its decoder's MLP of {decoder_mlp} at width {decoder.width}"
    return ""


def _stated(raw: RawWeights) -> dict[str, Any]:
    """Heads, frames and size as config.json, the hub's `model_config` or a released command line says.

    UserError for what no network can have: a depth in quotes, a number of 400 digits.
    """
    config = raw.config
    inner = config.get("model_config")
    if isinstance(inner, dict):
        keys = {"num_heads": "num_heads", "num_frames": "num_frames", "size": "img_size"}
        said, where = inner, "model_config of config.json"
    elif "hidden_size" in config:
        keys = {
            "num_heads": "num_attention_heads",
            "decoder_heads": "decoder_num_attention_heads",
            "num_frames": "num_frames",
            "size": "image_size",
        }
        said, where = config, "config.json"
    else:
        keys = {"num_frames": "num_frames", "size": "input_size"}
        said, where = {theirs: _count(raw.argument(theirs)) for theirs in keys.values()}, "the arguments"
    known = known_settings(ModelSettings)
    stated: dict[str, Any] = {}
    for ours, theirs in keys.items():
        value = _side(said.get(theirs)) if ours == "size" else said.get(theirs)
        if value is not None:
            stated[ours] = known[ours].take(value, f"({theirs} in {where}, with {quoted(raw.path)})")
    # Only released fine-tuning says it.
    stated["native_16x224"] = said is not config and raw.argument("nb_classes") is not None
    return stated


def _row(width: int) -> str | None:
    """The row of the size table with this width, if any; depth and patch may differ from it."""
    return next((name for name, size in SIZES.items() if size.width == width), None)


def _row_of_ratio(width: int, mlp_width: int | None) -> str | None:
    """The size whose width this is and, failing that, one whose MLP has this ratio to its width."""
    row = _row(width)
    rows = ([row] if row else []) + ["vit_b16", "vit_g14"]
    return next((n for n in rows if width * SIZES[n].mlp_width // SIZES[n].width == mlp_width), None)


def _depth(state: Mapping[str, Tensor], part: str) -> int:
    pattern = re.compile(rf"{part}\.blocks\.(\d{{1,6}})\.")
    return max((int(found[1]) + 1 for name in state if (found := pattern.match(name))), default=0)


def _learned_tokens(state: Mapping[str, Tensor]) -> int:
    """Tokens of a learned position table; 0 where there is none."""
    return state["encoder.pos_embed"].shape[-2] if "encoder.pos_embed" in state else 0


def _length(state: Mapping[str, Tensor], name: str) -> int | None:
    """Entries along the first axis of a tensor, if it is there."""
    return state[name].shape[0] if name in state and state[name].ndim else None


def _side(value: Any) -> Any:
    """Height and width of a square, given as a number or as both of them; else what was given."""
    if isinstance(value, list | tuple) and value and all(side == value[0] for side in value):
        return value[0]
    return value


def _count(value: Any) -> Any:
    """A whole number, or a list of them; None where a command line said something else."""
    return value if type(value) in (int, list, tuple) else None


def _unless(value: int | None, usual: int) -> int | None:
    """None, which settings read as the size table's value, where the value is that one."""
    return None if value == usual else value
