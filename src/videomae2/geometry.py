"""Pixels <-> tubelets <-> tokens <-> seconds: the only home of patch arithmetic."""

from dataclasses import dataclass

from videomae2.errors import UserError


@dataclass(frozen=True)
class TokenGrid:
    """How a clip of pixels is cut into cubes; a token is one cube, in (t, h, w) raster order.

    `num_frames`, `height` and `width` count frames and pixels. `tubelet` (frames) and `patch` (pixels) are
    the sides of a cube: 2 x 16 x 16 in the paper, 2 x 14 x 14 for ViT-g. UserError where a side does not
    divide the clip, with what would.
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
            # True is an int in Python, and 16.0 would make float counts of tokens.
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"expected {name} to be a whole number of at least 1, got {value!r}")
        _must_divide("num_frames", self.num_frames, "tubelet", self.tubelet)
        _must_divide("height", self.height, "patch", self.patch)
        _must_divide("width", self.width, "patch", self.patch)

    @classmethod
    def square(cls, num_frames: int = 16, size: int = 224, tubelet: int = 2, patch: int = 16) -> "TokenGrid":
        """Grid of a square RGB clip of `num_frames` frames and `size` x `size` pixels."""
        return cls(num_frames, size, size, tubelet, patch)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tokens along (t, h, w): steps, rows, columns."""
        return self.num_frames // self.tubelet, self.height // self.patch, self.width // self.patch

    @property
    def num_steps(self) -> int:
        """Steps along time, each one tubelet long."""
        return self.shape[0]

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one step: rows x columns."""
        return self.shape[1] * self.shape[2]

    @property
    def num_tokens(self) -> int:
        """N, the number of tokens of the clip: 1568 at 16 x 224 x 224 with 2 x 16 x 16 cubes."""
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
        """Shape [B, T, C, H, W] of a batch that this grid cuts."""
        return batch, self.num_frames, self.channels, self.height, self.width

    def check_clip(self, shape: tuple[int, ...]) -> None:
        """UserError unless `shape` is [B, T, C, H, W] with this grid's frames, channels and pixels."""
        if len(shape) != 5 or tuple(shape[1:]) != self.clip_shape(0)[1:]:
            expected = "[B, " + ", ".join(str(side) for side in self.clip_shape(0)[1:]) + "]"
            raise UserError(
                f"expected clips {expected} (batch, frames, channels, height, width), got {list(shape)}; "
                "resize or resample them, or build the model with these frames and size"
            )

    def step_seconds(self, frames_per_second: float, stride: int = 1) -> float:
        """Seconds from one step to the next, where every `stride`-th frame of the source was sampled."""
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
        # The nearest sizes that work, so that the reader need not calculate; none below the smallest.
        below, above = whole // part * part, (whole // part + 1) * part
        choices = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"{whole_name} {whole} is not a multiple of {part_name} {part}; try {whole_name} {choices}"
        )
