"""What each network is, without torch: a size table, and frozen descriptions made from it and the settings.

`ModelSettings` is what a user writes; `EncoderConfig`, `DecoderConfig` and `Architecture` are what is built,
counted, recognised and written. Nothing else describes a network.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.settings import ModelSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Size:
    """One row of the size table: an encoder, its patch in pixels, and the decoder that pre-trains it."""

    width: int
    depth: int
    num_heads: int
    mlp_width: int
    patch: int
    decoder_width: int
    decoder_heads: int


# Encoders: paper, architecture tables (ViT-g after "Scaling Vision Transformers"). Decoders: released code,
# which gives every one 4 blocks.
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

# Upper bounds lie far above any published vision transformer (ViT-22B: 48 blocks, 6144 wide): they catch a
# digit too many before memory is allocated.
MAX_DEPTH = 1_000
MAX_WIDTH = 65_536
MAX_MLP_WIDTH = 1_048_576
MAX_TOKENS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A stack of pre-norm blocks as released: one linear layer for queries, keys and values, no key bias.

    `width` is the embedding width D, `depth` the number of blocks. UserError for widths, depths and heads
    that no network can have, or that do not divide.
    """

    keys: ClassVar[tuple[str, str, str]] = ("model.width", "model.depth", "model.num_heads")
    """The settings that users write for width, depth and heads; errors name them."""

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
        width, depth, heads = self.keys
        for key, value, most in (
            (width, self.width, MAX_WIDTH),
            (depth, self.depth, MAX_DEPTH),
            (heads, self.num_heads, MAX_WIDTH),
            (f"the MLP of {width}", self.mlp_width, MAX_MLP_WIDTH),
        ):
            if not 1 <= value <= most:
                raise UserError(
                    f"{key}: expected 1 to {most:,}, got {value:,}; leave it out to take the usual "
                    "one (vit_g14, the largest, has width 1408, depth 40 and 16 heads)"
                )
        if self.width % self.num_heads:
            raise UserError(_indivisible(width, heads, self.width, self.num_heads))
        if self.positions not in POSITIONS:
            raise UserError(f"model.positions: expected {' or '.join(POSITIONS)}, got {self.positions!r}")

    @property
    def block_matrices(self) -> int:
        """Entries of one block's weight matrices: query, key, value, projection and the MLP's two."""
        return 4 * self.width**2 + 2 * self.width * self.mlp_width

    @property
    def block_parameters(self) -> int:
        """All learned values of one block: matrices, biases, two LayerNorms, and scales where it has them."""
        biases = 3 * self.width + self.mlp_width + self.width  # query, value, projection; the MLP's two
        layer_scales = 2 * self.width if self.layer_scale else 0
        cosine_scales = self.num_heads if self.cosine_attention else 0
        return self.block_matrices + biases + 2 * self.norm_parameters + layer_scales + cosine_scales

    @property
    def norm_parameters(self) -> int:
        """Learned values of one LayerNorm."""
        return 2 * self.width


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(TransformerConfig):
    """A plain vision transformer over the cubes of `grid`.

    `native` is the grid that its position table was made for; another `grid` interpolates it. `mean` and
    `std` are of each channel of pixels in [0, 1].
    """

    grid: TokenGrid
    native: TokenGrid
    drop_path: float = 0.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        super().__post_init__()
        for grid in (self.grid, self.native):
            if grid.num_tokens > MAX_TOKENS:
                raise UserError(
                    f"expected a clip of at most {MAX_TOKENS:,} tokens, got {grid}; try fewer frames or "
                    "pixels"
                )
        if not 0 <= self.drop_path < 1:
            raise UserError(
                f"model.drop_path: expected a probability from 0 to below 1, got {self.drop_path}; the paper "
                "has 0 to 0.35"
            )
        if not len(self.mean) == len(self.std) == self.grid.channels:
            raise UserError(
                f"expected a mean and a standard deviation for each of {self.grid.channels} channels, got "
                f"{len(self.mean)} means and {len(self.std)} standard deviations"
            )

    @property
    def num_learned_positions(self) -> int:
        """Tokens whose position vector is a parameter: all of the grid's, or none of a fixed table."""
        return self.grid.num_tokens if self.positions == "learned" else 0


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(TransformerConfig):
    """The narrow transformer that predicts pixels; used in pre-training only."""

    keys: ClassVar[tuple[str, str, str]] = (
        "model.decoder_width",
        "model.decoder_depth",
        "model.decoder_heads",
    )


@dataclass(frozen=True)
class Architecture:
    """A whole network: an encoder, with a decoder (pre-training), with a head of `num_classes`, or bare.

    UserError for both at once: no network of this package has them, and `output_matrix` is of one.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig | None = None
    num_classes: int = 0

    def __post_init__(self) -> None:
        if self.num_classes < 0:
            raise UserError(f"num_classes: expected 0 (no head) or more, got {self.num_classes}")
        if self.decoder is not None and self.num_classes:
            raise UserError(
                f"expected a decoder or a head, got a decoder and a head of {self.num_classes} classes; give "
                "num_classes = 0 for pre-training, or no decoder for classification"
            )

    @property
    def grid(self) -> TokenGrid:
        """How clips are cut into tokens."""
        return self.encoder.grid

    @property
    def transformers(self) -> tuple[TransformerConfig, ...]:
        """The encoder and, where there is one, the decoder."""
        return (self.encoder,) if self.decoder is None else (self.encoder, self.decoder)

    @property
    def embed_matrix(self) -> int:
        """Entries of the cube embedding's weight, P x D."""
        return self.grid.cube_values * self.encoder.width

    @property
    def embed_parameters(self) -> int:
        """Learned values before the first block: cube embedding, its bias, and a learned position table."""
        return self.embed_matrix + (1 + self.encoder.num_learned_positions) * self.encoder.width

    @property
    def bridge_matrix(self) -> int:
        """Entries of the projection from encoder to decoder; 0 without a decoder."""
        return self.encoder.width * self.decoder.width if self.decoder else 0

    @property
    def output_matrix(self) -> int:
        """Entries of the last layer's weight: the decoder's, to pixels, or the classification head's."""
        if self.decoder:
            return self.decoder.width * self.grid.cube_values
        return self.encoder.width * self.num_classes

    @property
    def fixed_position_values(self) -> int:
        """Values of the position tables that are buffers, not parameters: a decoder's always, D a token."""
        encoder = (self.grid.num_tokens - self.encoder.num_learned_positions) * self.encoder.width
        return encoder + (self.grid.num_tokens * self.decoder.width if self.decoder else 0)


def architecture_of(settings: ModelSettings, *, decoder: bool = False, num_classes: int = 0) -> Architecture:
    """The network that these settings build: for pre-training with its decoder, for a task with a head.

    UserError where settings do not fit together, with what would.
    """
    return Architecture(encoder_config(settings), decoder_config(settings) if decoder else None, num_classes)


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
    """The decoder that pre-trains these settings' encoder.

    Its MLP takes the encoder's ratio, rounded down, as in the released weights. Its positions are never
    learned, as they are not in the released code.
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
            "a network trained from scratch can take its own num_frames and size"
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


def _indivisible(width_key: str, heads_key: str, width: int, num_heads: int) -> str:
    """What to say of a width that does not divide into heads, with the nearest numbers that would."""
    choices = [heads for heads in range(1, width + 1) if width % heads == 0]
    near = sorted(sorted(choices, key=lambda heads: abs(heads - num_heads))[:3])
    return (
        f"{width_key}: expected a multiple of {heads_key} = {num_heads}, got {width}; try "
        f"{' or '.join(map(str, near))} heads, or width {width // num_heads * num_heads + num_heads}"
    )
