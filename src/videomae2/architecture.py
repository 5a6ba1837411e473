"""What each network is: the size table, and the frozen configurations made from it and the user's
settings.
"""

from dataclasses import dataclass
from difflib import get_close_matches

from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.settings import ModelSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Size:
    """One row of the table: an encoder, its patch, and the decoder that pre-trains it."""

    width: int
    depth: int
    num_heads: int
    mlp_width: int
    patch: int
    decoder_width: int
    decoder_heads: int


# Encoders: paper, architecture tables (g after "Scaling Vision Transformers"); decoders: released code, 4
# blocks each.
SIZES = {
    "vit_ti16": Size(192, 12, 3, 768, 16, 96, 3),  # ours, for tests and small machines
    "vit_s16": Size(384, 12, 6, 1536, 16, 192, 3),
    "vit_b16": Size(768, 12, 12, 3072, 16, 384, 6),
    "vit_l16": Size(1024, 24, 16, 4096, 16, 512, 8),
    "vit_h16": Size(1280, 32, 16, 5120, 16, 512, 8),
    # The decoder's MLP follows the encoder's ratio 48/11: 2234 wide in the released weights, 2048 in the
    # paper's table.
    "vit_g14": Size(1408, 40, 16, 6144, 14, 512, 8),
}


POSITIONS = ("sinusoid", "axes", "learned")


@dataclass(frozen=True)
class EncoderConfig:
    """A plain vision transformer over the cubes of `grid`; `native` is the grid its position table was made
    for.
    """

    grid: TokenGrid
    native: TokenGrid
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    drop_path: float = 0.0
    positions: str = "sinusoid"
    cosine_attention: bool = False
    layer_scale: float = 0.0
    activation_checkpointing: bool = False
    mlp_checkpointing: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_transformer("model", self.width, self.depth, self.num_heads, self.mlp_width)
        if not 0 <= self.drop_path < 1:
            raise UserError(
                f"model.drop_path is {self.drop_path}, but a probability below 1 was expected; the paper has "
                "0 to 0.35"
            )
        if self.positions not in POSITIONS:
            raise UserError(f"model.positions is {self.positions!r}; choose {', '.join(POSITIONS)}")
        if not len(self.mean) == len(self.std) == self.grid.channels:
            came = f"{len(self.mean)} means and {len(self.std)} deviations"
            raise UserError(
                f"{came} came for clips of {self.grid.channels} channels; give one of each for every channel"
            )


@dataclass(frozen=True)
class DecoderConfig:
    """The narrow transformer that predicts pixels; used in pre-training only."""

    width: int
    depth: int
    num_heads: int
    mlp_width: int
    positions: str = "sinusoid"
    cosine_attention: bool = False
    layer_scale: float = 0.0
    activation_checkpointing: bool = False
    mlp_checkpointing: bool = False

    def __post_init__(self) -> None:
        _check_transformer("model.decoder", self.width, self.depth, self.num_heads, self.mlp_width)


def encoder_config(settings: ModelSettings) -> EncoderConfig:
    """The encoder that these settings name. Overridden widths keep the size's MLP ratio."""
    size = _size(settings.name)
    width = _or(settings.width, size.width)
    return EncoderConfig(
        grid=token_grid(settings),
        native=_native_grid(settings),
        width=width,
        depth=_or(settings.depth, size.depth),
        num_heads=_or(settings.num_heads, size.num_heads),
        mlp_width=width * size.mlp_width // size.width,
        drop_path=settings.drop_path,
        positions=settings.positions,
        cosine_attention=settings.cosine_attention,
        layer_scale=settings.layer_scale,
        activation_checkpointing=settings.activation_checkpointing,
        mlp_checkpointing=settings.mlp_checkpointing,
    )


def decoder_config(settings: ModelSettings) -> DecoderConfig:
    """The decoder that pre-trains these settings' encoder; its MLP takes the encoder's ratio, rounded down
    (released).
    """
    size = _size(settings.name)
    width = _or(settings.decoder_width, size.decoder_width)
    return DecoderConfig(
        width=width,
        depth=settings.decoder_depth,
        num_heads=_or(settings.decoder_heads, size.decoder_heads),
        mlp_width=width * size.mlp_width // size.width,
        positions="axes" if settings.positions == "axes" else "sinusoid",
        cosine_attention=settings.cosine_attention,
        layer_scale=settings.layer_scale,
        activation_checkpointing=settings.activation_checkpointing,
        mlp_checkpointing=settings.mlp_checkpointing,
    )


def token_grid(settings: ModelSettings) -> TokenGrid:
    """The grid that cuts this model's clips."""
    return TokenGrid.square(settings.num_frames, settings.size, settings.tubelet, _patch(settings))


def _native_grid(settings: ModelSettings) -> TokenGrid:
    try:
        return TokenGrid.square(
            settings.native_frames, settings.native_size, settings.tubelet, _patch(settings)
        )
    except UserError as error:
        raise UserError(
            f"the native grid of the position table (model.native_frames, model.native_size): {error}; "
            f"a network trained from scratch can take its own num_frames and size"
        ) from None


def _patch(settings: ModelSettings) -> int:
    return _or(settings.patch, _size(settings.name).patch)


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def _size(name: str) -> Size:
    if name not in SIZES:
        near = get_close_matches(name, SIZES, 1)
        hint = f"did you mean {near[0]}?" if near else "choose one of"
        raise UserError(f"there is no model {name!r}; {hint} ({', '.join(SIZES)})")
    return SIZES[name]


def _check_transformer(name: str, width: int, depth: int, num_heads: int, mlp_width: int) -> None:
    for what, value in (("width", width), ("depth", depth), ("heads", num_heads), ("MLP width", mlp_width)):
        if value < 1:
            raise UserError(f"{name}: {what} is {value}, but at least 1 was expected")
    if width % num_heads:
        choices = [heads for heads in range(1, width + 1) if width % heads == 0]
        near = sorted(sorted(choices, key=lambda heads: abs(heads - num_heads))[:3])
        raise UserError(
            f"{name}: width {width} does not divide into {num_heads} heads; try "
            f"{' or '.join(map(str, near))} heads, "
            f"or width {width // num_heads * num_heads + num_heads}"
        )
