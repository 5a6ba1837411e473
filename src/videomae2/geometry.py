"""Pixels <-> tubelets <-> tokens <-> seconds: the only home of patch arithmetic."""

from dataclasses import dataclass

from videomae2.errors import UserError


@dataclass(frozen=True)
class TokenGrid:
    """How a clip of pixels is cut into cubes, in (t, h, w) raster order.

    `num_frames`, `height`, `width` count frames and pixels; `tubelet` and `patch` are the cube's sides
    (2 x 16 x 16 in the paper, 2 x 14 x 14 for ViT-g). Every side must divide; UserError says what would.
    """

    num_frames: int = 16
    height: int = 224
    width: int = 224
    tubelet: int = 2
    patch: int = 16
    channels: int = 3

    def __post_init__(self) -> None:
        for name in ("num_frames", "height", "width", "tubelet", "patch", "channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name} is {value!r}, but a token grid needs a whole number of at least 1")
        _must_divide("num_frames", self.num_frames, "tubelet", self.tubelet)
        _must_divide("height", self.height, "patch", self.patch)
        _must_divide("width", self.width, "patch", self.patch)

    @classmethod
    def square(cls, num_frames: int = 16, size: int = 224, tubelet: int = 2, patch: int = 16) -> "TokenGrid":
        """The usual square clip of `num_frames` frames and `size` x `size` pixels."""
        return cls(num_frames, size, size, tubelet, patch)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tokens along (time, rows, columns)."""
        return self.num_frames // self.tubelet, self.height // self.patch, self.width // self.patch

    @property
    def num_steps(self) -> int:
        """Tubelet steps along time."""
        return self.shape[0]

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one tubelet step: rows x columns."""
        return self.shape[1] * self.shape[2]

    @property
    def num_tokens(self) -> int:
        """N, all tokens of the clip."""
        return self.num_steps * self.tokens_per_step

    @property
    def cube_pixels(self) -> int:
        """Pixels of one cube in one colour channel."""
        return self.tubelet * self.patch * self.patch

    @property
    def cube_values(self) -> int:
        """P, values of one cube over all channels: 1536 for 2 x 16 x 16, 1176 for 2 x 14 x 14."""
        return self.cube_pixels * self.channels

    def clip_shape(self, batch: int) -> tuple[int, int, int, int, int]:
        """[B, T, C, H, W] of a batch this grid cuts."""
        return batch, self.num_frames, self.channels, self.height, self.width

    def check_clip(self, shape: tuple[int, ...]) -> None:
        """Refuse a batch [B, T, C, H, W] whose frames, channels or pixels are not this grid's."""
        if len(shape) != 5 or tuple(shape[1:]) != self.clip_shape(0)[1:]:
            expected = "[B, " + ", ".join(str(side) for side in self.clip_shape(0)[1:]) + "]"
            raise UserError(
                f"a clip batch of shape {list(shape)} came, but this model reads {expected} (batch, frames, "
                "channels, "
                f"height, width); resize or resample the clip, or build the model with these frames and size"
            )

    def step_seconds(self, frames_per_second: float, stride: int = 1) -> float:
        """Seconds from one tubelet step to the next for frames taken every `stride` frames of the source."""
        return self.tubelet * stride / frames_per_second

    def __str__(self) -> str:
        steps, rows, columns = self.shape
        return (
            f"{self.num_frames}x{self.height}x{self.width} pixels in "
            f"{self.tubelet}x{self.patch}x{self.patch} cubes "
            f"-> {steps}x{rows}x{columns} = {self.num_tokens} tokens"
        )


def _must_divide(whole_name: str, whole: int, part_name: str, part: int) -> None:
    if whole % part:
        below, above = whole // part * part, (whole // part + 1) * part
        choices = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"{whole_name} {whole} is not a multiple of {part_name} {part}; try {whole_name} {choices}"
        )
