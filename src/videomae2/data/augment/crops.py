"""From decoded frames to a square clip: crops and flips on uint8, one draw for all frames of a clip.

What makes a clip also says where it lies in its source, as a `Placement`, so that boxes can follow.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from videomae2.data.augment.mixing import RandomErasing
from videomae2.data.augment.pixel_ops import color_jitter
from videomae2.data.augment.rand_augment import RandAugment, apply
from videomae2.data.sampling import crop_offsets
from videomae2.errors import UserError
from videomae2.placement import Box, Placement
from videomae2.settings import DataSettings

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
"""Shares of the short side (paper section 4.1 by way of TSN; released)."""
# fmt: off
QUARTERS = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2),
            (1, 1), (1, 3), (3, 1), (3, 3))
# fmt: on
"""Positions of the multi-scale crop in quarters of the spare (rows, columns), in the released order."""
STORED_SHORT_SIDE = 320
"""Short side of the released recipes' videos: the size up to which RandAugment looks at whole frames."""


def multi_scale_box(height: int, width: int, size: int, rng: np.random.Generator) -> Box:
    """A box for pre-training: sides from four shares of the short side, at one of 13 fixed positions.

    The two sides' places in the list of shares differ by at most one, and a side within two pixels of `size`
    becomes `size`, so that nothing is resized by a hair (released).
    """
    short = min(height, width)
    sides = [max(1, int(short * scale)) for scale in MULTI_SCALES]
    sides = [min(size, short) if abs(side - size) < 3 else side for side in sides]
    pairs = [(tall, wide) for i, tall in enumerate(sides) for j, wide in enumerate(sides) if abs(i - j) <= 1]
    tall, wide = pairs[int(rng.integers(len(pairs)))]
    tops_lefts = fixed_positions(height - tall, width - wide)
    top, left = tops_lefts[int(rng.integers(len(tops_lefts)))]
    return Box(top, left, tall, wide)


def fixed_positions(spare_height: int, spare_width: int) -> list[tuple[int, int]]:
    """The 13 (top, left) of the multi-scale crop: corners, centre, edge middles, inner corners."""
    down, across = spare_height // 4, spare_width // 4
    return [(i * down, j * across) for i, j in QUARTERS]


def random_resized_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    rng: np.random.Generator,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A box of a random share of the area and a random shape (torchvision's, as released).

    After ten tries that do not fit, the largest central box of an allowed shape.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, tall = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < tall <= height:
            return Box(int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide)
    shape = min(max(width / height, ratio[0]), ratio[1])
    tall, wide = min(height, max(1, round(width / shape))), min(width, max(1, round(height * shape)))
    return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


def random_scale_box(height: int, width: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """A square whose side is a random share of the short side, anywhere (detection: scale crop, released).

    That is a picture resized to a random short side, of which a square of the network's size is cut.
    """
    short = min(height, width)
    side = min(short, max(1, round(short * rng.uniform(*scale))))
    return Box(int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side)


def center_box(height: int, width: int) -> Box:
    """The largest square in the middle."""
    side = min(height, width)
    return Box((height - side) // 2, (width - side) // 2, side, side)


def crop_and_resize(
    frames: UInt8[Tensor, "T C H W"], box: Box, size: int
) -> UInt8[Tensor, "T C size_ size_"]:
    """The box of every frame at `size` x `size`: bilinear with antialiasing; only the box is resized."""
    return resize(box.cut(frames), size, size)


def resize(frames: UInt8[Tensor, "T C H W"], height: int, width: int) -> UInt8[Tensor, "T C h w"]:
    """Frames at another size, laid out in memory as they came; bit-equal for any number of threads."""
    if frames.shape[-2:] == (height, width):
        return frames
    return F.interpolate(frames, size=(height, width), mode="bilinear", antialias=True, align_corners=False)


def resize_short_side(frames: UInt8[Tensor, "T C H W"], size: int) -> UInt8[Tensor, "T C h w"]:
    """Frames with the short side at `size`, the long side in proportion, cut to a whole pixel (released)."""
    height, width = frames.shape[-2:]
    if height <= width:
        return resize(frames, size, int(size * width / height))
    return resize(frames, int(size * height / width), size)


def view_crops(
    frames: UInt8[Tensor, "T C H W"], size: int, num_crops: int, source: tuple[int, int] | None = None
) -> list[tuple[UInt8[Tensor, "T C size_ size_"], Placement]]:
    """Test crops: the short side at `size`, then `num_crops` squares evenly along the long side.

    One crop is the middle. `source` is (height, width) of the pictures that the frames were resized from,
    by default of the frames themselves.
    """
    source = source or (frames.shape[-2], frames.shape[-1])
    frames = resize_short_side(frames, size)
    seen = height, width = frames.shape[-2], frames.shape[-1]
    boxes = [
        Box(int(offset), 0, size, size) if height > width else Box(0, int(offset), size, size)
        for offset in crop_offsets(height, width, num_crops)
    ]
    return [(box.cut(frames).contiguous(), Placement.of(box, seen, source, (size, size))) for box in boxes]


def flip(frames: UInt8[Tensor, "T C H W"]) -> UInt8[Tensor, "T C H W"]:
    """Left becomes right."""
    return frames.flip(-1)


class TrainingTransform:
    """The training transform of these settings, in the released order: RandAugment, crop, flip, erasing.

    RandAugment sees whole frames, so that what it moves into the picture is mostly cropped away, as released;
    frames larger than the released data (320 pixels of short side) are first brought down to that, a video's
    by its decoder. UserError for a policy that cannot be read, or for an impossible crop scale or
    probability.
    """

    def __init__(self, data: DataSettings, size: int) -> None:
        low, high = data.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(
                f"expected crop_scale with 0 < low <= high <= 1, got ({low}, {high}); try 0.08 1.0"
            )
        self.data = data
        self.size = size
        self.augment = RandAugment.parse(data.rand_augment) if data.rand_augment else None
        self.erase = RandomErasing(data.erasing) if data.erasing else None

    def __call__(
        self, frames: UInt8[Tensor, "T C H W"], rng: np.random.Generator
    ) -> tuple[UInt8[Tensor, "T C size_ size_"], Placement]:
        """One view of the frames, contiguous, and where it lies in them."""
        view = self.view(rng)
        shrunk, source = view.shrink(frames).split(1), (frames.shape[-2], frames.shape[-1])
        return view.clip(shrunk, range(len(frames)), source)

    def view(self, rng: np.random.Generator) -> "TrainingView":
        """One view in the making."""
        return TrainingView(self, rng)

    @property
    def short_side_at_most(self) -> int | None:
        """The short side to which larger frames are brought down for RandAugment, which looks at whole ones.

        None without RandAugment: then the crop comes first, from every pixel there is.
        """
        return max(STORED_SHORT_SIDE, self.size) if self.augment is not None else None

    def bounded(self, frames: UInt8[Tensor, "T C H W"]) -> UInt8[Tensor, "T C h w"]:
        """Frames of at most that size; a video's came so from its decoder (`read_pictures`)."""
        bound = self.short_side_at_most
        return (
            resize_short_side(frames, bound)
            if bound is not None and min(frames.shape[-2:]) > bound
            else frames
        )

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Where a view of frames of this size looks."""
        if self.data.crop == "multi_scale":
            return multi_scale_box(height, width, self.size, rng)
        if self.data.crop == "random_resized":
            return random_resized_box(height, width, self.data.crop_scale, rng)
        if self.data.crop == "random_scale":
            return random_scale_box(height, width, self.data.crop_scale, rng)
        return center_box(height, width)


class TrainingView:
    """One view in two steps: `shrink` pictures as they are decoded, then `clip` joins what came of them.

    So large pictures need not all be in memory, and each is resized while the processor's cache has it.
    """

    def __init__(self, transform: TrainingTransform, rng: np.random.Generator) -> None:
        self._transform, self._rng = transform, rng
        self._box: Box | None = None
        self._seen = (0, 0)

    def shrink(self, pictures: UInt8[Tensor, "N C H W"]) -> UInt8[Tensor, "N C h w"]:
        """The view's part of pictures at its size; before RandAugment, whole pictures at a bounded size."""
        if self._transform.augment is not None:
            return self._transform.bounded(pictures)
        if self._box is None:
            self._seen = pictures.shape[-2], pictures.shape[-1]
            self._box = self._transform.box(*self._seen, self._rng)
        return crop_and_resize(pictures, self._box, self._transform.size)

    def clip(
        self, shrunk: Sequence[UInt8[Tensor, "1 C h w"]], places: Sequence[int], source: tuple[int, int]
    ) -> tuple[UInt8[Tensor, "T C size_ size_"], Placement]:
        """The clip whose frame t shows picture `places[t]`, contiguous; and where it lies in its source.

        `source` is (height, width) of the stored pictures, before a decoder or `bounded` scaled them.
        """
        transform, rng, size = self._transform, self._rng, self._transform.size
        frames = joined(shrunk, places)
        box, seen = self._box, self._seen
        if transform.augment is not None:
            seen = frames.shape[-2], frames.shape[-1]
            # The box is drawn after the operations: the released order of draws.
            drawn, box = transform.augment.draw(rng), transform.box(*seen, rng)
            frames = resize(apply(drawn, frames, box), size, size).contiguous()
        assert box is not None, "shrink comes before clip"
        if any(transform.data.color_jitter):
            frames = color_jitter(frames, rng.uniform(-1, 1, 3) * transform.data.color_jitter)
        flipped = transform.data.flip and rng.random() < 0.5
        if flipped:
            frames = flip(frames)
        if transform.erase is not None:
            frames = transform.erase(frames, rng)
        return frames, Placement.of(box, seen, source, (size, size), flipped)


def joined(pictures: Sequence[UInt8[Tensor, "1 C H W"]], places: Sequence[int]) -> UInt8[Tensor, "T C H W"]:
    """Pictures [1, C, H, W] in the order of `places`, in one piece, however they lay in memory."""
    clip = pictures[0].new_empty((len(places), *pictures[0].shape[1:]))
    for frame, place in zip(clip, places, strict=True):
        frame.copy_(pictures[place][0])
    return clip
