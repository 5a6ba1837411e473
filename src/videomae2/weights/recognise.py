"""Which network a checkpoint is: what its tensors' shapes say, and what only its configuration can say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from videomae2.architecture import SIZES, Size, decoder_config, encoder_config
from videomae2.errors import UserError
from videomae2.settings import ModelSettings
from videomae2.weights.fetch import Source, namespace_value


@dataclass(frozen=True)
class Sketch:
    """The network as far as shapes tell: neither heads, nor frames, nor pixels leave a trace in them."""

    width: int
    depth: int
    mlp_width: int
    cube: tuple[int, int, int]
    """Tubelet, patch height, patch width."""
    channels: int
    decoder_width: int | None
    decoder_depth: int
    decoder_mlp_width: int | None
    num_heads: int | None
    """Known from the shapes only with cosine attention, which learns one scale for each head."""
    decoder_heads: int | None
    layer_scale: bool
    num_classes: int | None
    learned_positions: int | None
    """Tokens of a learned position table."""

    @property
    def row(self) -> tuple[str, Size] | None:
        """The row of the size table with this width, if any; depth and patch may differ from it."""
        return next(((name, size) for name, size in SIZES.items() if size.width == self.width), None)

    def __str__(self) -> str:
        row = self.row
        exact = row is not None and (row[1].depth, row[1].patch) == (self.depth, self.cube[1])
        decoder = (
            f"decoder of width {self.decoder_width} and depth {self.decoder_depth}"
            if self.decoder_width
            else "no decoder"
        )
        head = f"head of {self.num_classes} classes" if self.num_classes else "no head"
        cube = "x".join(map(str, self.cube))
        name = row[0] if row is not None and exact else "a vision transformer"
        return f"{name} (width {self.width}, depth {self.depth}, {cube} cubes, {decoder}, {head})"


def sketch(state: Mapping[str, Tensor]) -> Sketch:
    """Read a network off the shapes of tensors under our names; UserError where the encoder is not all
    there.
    """
    for name in ("encoder.patch_embed.proj.weight", "encoder.blocks.0.mlp.fc1.weight"):
        if name not in state:
            raise UserError(
                f"the checkpoint has no {name}, so it holds no whole encoder; give the file that holds one"
            )
    patch_embed = state["encoder.patch_embed.proj.weight"]
    if patch_embed.ndim != 5:
        raise UserError(
            f"the patch embedding is {list(patch_embed.shape)}, but a video model's is [width, channels, "
            "tubelet, patch, patch]; "
            f"is this an image model?"
        )
    cosine = state.get("encoder.blocks.0.attn.scale")
    decoder_cosine = state.get("decoder.blocks.0.attn.scale")
    positions = state.get("encoder.pos_embed")
    return Sketch(
        width=patch_embed.shape[0],
        depth=_count_blocks(state, "encoder"),
        mlp_width=state["encoder.blocks.0.mlp.fc1.weight"].shape[0],
        cube=(patch_embed.shape[2], patch_embed.shape[3], patch_embed.shape[4]),
        channels=patch_embed.shape[1],
        decoder_width=_length(state.get("encoder_to_decoder.weight")),
        decoder_depth=_count_blocks(state, "decoder"),
        decoder_mlp_width=_length(state.get("decoder.blocks.0.mlp.fc1.weight")),
        num_heads=_length(cosine),
        decoder_heads=_length(decoder_cosine),
        layer_scale="encoder.blocks.0.gamma_1" in state,
        num_classes=_length(state.get("head.weight")),
        learned_positions=positions.shape[-2] if positions is not None else None,
    )


def read_settings(shapes: Sketch, source: Source, kind: str) -> tuple[ModelSettings | None, str]:
    """Settings that build this network, or None and the reason why they cannot be known or written down."""
    said = _configuration(source)
    heads = said.get("num_heads") or shapes.num_heads or (shapes.row[1].num_heads if shapes.row else None)
    if not heads:
        return (
            None,
            f"the number of heads of width {shapes.width} stands nowhere in it; name the model yourself",
        )
    name = _ratio_row(shapes)
    if name is None or shapes.channels != 3 or shapes.cube[1] != shapes.cube[2]:
        return (
            None,
            f"no model settings describe it: MLP {shapes.mlp_width}, {shapes.channels} channels, cube "
            f"{shapes.cube}",
        )
    frames, size = said.get("num_frames") or 16, said.get("size") or 224
    # Released fine-tuning interpolates the table of 16 x 224 x 224 to other grids; everyone else makes one
    # for the grid at hand.
    native = (16, 224) if said.get("native_16x224") else (frames, size)
    settings = ModelSettings(
        name=name, num_frames=frames, size=size, tubelet=shapes.cube[0], patch=_unless(shapes.cube[1], SIZES[name].patch),
        width=_unless(shapes.width, SIZES[name].width), depth=_unless(shapes.depth, SIZES[name].depth),
        num_heads=_unless(heads, SIZES[name].num_heads), native_frames=native[0], native_size=native[1],
        positions="learned" if shapes.learned_positions else "sinusoid",
        cosine_attention=shapes.num_heads is not None, layer_scale=0.1 if shapes.layer_scale else 0.0,
    )  # fmt: skip
    if kind == "pretrain":
        settings = _with_decoder(settings, shapes, said)
    return _checked(settings, shapes, kind)


def _with_decoder(settings: ModelSettings, shapes: Sketch, said: Mapping[str, Any]) -> ModelSettings:
    from dataclasses import replace

    size = SIZES[settings.name]
    heads = said.get("decoder_heads") or shapes.decoder_heads
    return replace(
        settings,
        decoder_depth=shapes.decoder_depth,
        decoder_width=_unless(shapes.decoder_width, size.decoder_width),
        decoder_heads=_unless(heads, size.decoder_heads) if heads else None,
    )


def _checked(settings: ModelSettings, shapes: Sketch, kind: str) -> tuple[ModelSettings | None, str]:
    """The settings, if they really build tensors of these shapes."""
    try:
        encoder, decoder = encoder_config(settings), decoder_config(settings)
    except UserError as error:
        return None, f"no model settings describe it: {error}"
    if encoder.mlp_width != shapes.mlp_width:
        return None, f"no model settings describe its MLP of {shapes.mlp_width} at width {shapes.width}"
    if shapes.learned_positions and shapes.learned_positions != encoder.grid.num_tokens:
        tokens = shapes.learned_positions
        return (
            None,
            f"its position table has {tokens} tokens, and {encoder.grid} does not; name the model yourself",
        )
    if kind == "pretrain" and decoder.mlp_width != shapes.decoder_mlp_width:
        return (
            None,
            f"no model settings describe its decoder's MLP of {shapes.decoder_mlp_width} at width "
            f"{decoder.width}",
        )
    return settings, ""


def _configuration(source: Source) -> dict[str, Any]:
    """Heads, frames and size from transformers' config.json, the hub's `model_config`, or the released
    command line.
    """
    config = source.config
    if isinstance(config.get("model_config"), dict):
        inner = config["model_config"]
        return {
            "num_heads": inner.get("num_heads"),
            "num_frames": inner.get("num_frames"),
            "size": _side(inner.get("img_size")),
        }
    if "hidden_size" in config:
        return {
            "num_heads": config.get("num_attention_heads"),
            "decoder_heads": config.get("decoder_num_attention_heads"),
            "num_frames": config.get("num_frames"),
            "size": _side(config.get("image_size")),
        }
    frames, size = namespace_value(source.extras, "num_frames"), namespace_value(source.extras, "input_size")
    fine_tuned = namespace_value(source.extras, "nb_classes") is not None
    return {"num_frames": _whole(frames), "size": _side(size), "native_16x224": fine_tuned}


def _ratio_row(shapes: Sketch) -> str | None:
    """The size whose width this is and, failing that, one whose MLP has this ratio to its width."""
    rows = ([shapes.row[0]] if shapes.row else []) + ["vit_b16", "vit_g14"]
    return next(
        (n for n in rows if shapes.width * SIZES[n].mlp_width // SIZES[n].width == shapes.mlp_width), None
    )


def _count_blocks(state: Mapping[str, Tensor], part: str) -> int:
    numbers = [
        int(found.group(1)) for name in state if (found := re.match(rf"{part}\.blocks\.(\d+)\.", name))
    ]
    return max(numbers) + 1 if numbers else 0


def _length(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.shape[0]


def _side(value: Any) -> int | None:
    if isinstance(value, list | tuple):
        value = value[0] if value and all(side == value[0] for side in value) else None
    return _whole(value)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _unless(value: int | None, usual: int) -> int | None:
    return None if value == usual else value
