"""A reconstruction as pictures: of its own, for a user's notebook, and as blocks of a report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from videomae2 import visualize
from videomae2.data.tables.manifest import read_listed
from videomae2.errors import UserError
from videomae2.report.charts import picture_png
from videomae2.report.page import Block, Note, Strips
from videomae2.settings import DataSettings

SHOWN_VIDEOS = 3
"""Videos reconstructed for the report of a pre-training run."""
SHOWN_FRAMES, SHOWN_HEIGHT = 8, 96
"""Frames of a strip, and the pixels of height that small ones are enlarged to."""


@dataclass(frozen=True)
class Reconstruction:
    """A clip, what the encoder saw of it, and what the decoder made of that: uint8 [T, C, H, W] each.

    The reconstruction keeps the visible cubes as they are. Where targets were normalised, a prediction says
    only the pattern of a cube; its mean and contrast are taken from the true cube, as is usual for pictures
    of this kind. `error` is the training loss on the hidden cubes.
    """

    original: UInt8[Tensor, "T C H W"]
    seen: UInt8[Tensor, "T C H W"]
    rebuilt: UInt8[Tensor, "T C H W"]
    error: float

    @property
    def clips(self) -> dict[str, UInt8[Tensor, "T C H W"]]:
        """The three clips by the names that a reader sees."""
        return {"original": self.original, "seen by the encoder": self.seen, "reconstruction": self.rebuilt}

    def side_by_side(self, at_least: int = 0) -> UInt8[Tensor, "T C H W2"]:
        """The clips in a row, original | seen | reconstruction, enlarged to `at_least` pixels of height."""
        return visualize.side_by_side([visualize.enlarge(clip, at_least) for clip in self.clips.values()])

    def strip(self, count: int = SHOWN_FRAMES, at_least: int = 0) -> UInt8[Tensor, "C H2 W2"]:
        """Three rows of `count` frames: original, seen, reconstruction."""
        return visualize.stack(list(self.strips(count, at_least).values()))

    def strips(self, count: int = SHOWN_FRAMES, at_least: int = 0) -> dict[str, UInt8[Tensor, "C H W2"]]:
        """The rows of `strip` one by one, by name."""
        return {
            name: visualize.strip(visualize.enlarge(clip, at_least), count)
            for name, clip in self.clips.items()
        }


def reconstruction_blocks(
    reconstruct: Callable[[str | Path], Reconstruction], videos: Sequence[str | Path]
) -> list[Block]:
    """What a pre-trained network makes of some videos, for a report; unreadable ones are left out.

    `reconstruct` is that of a loaded `Model`.
    """
    blocks: list[Block] = []
    for video in videos:
        try:
            found = reconstruct(video)
        except UserError:  # the run is finished: a video that is gone must not cost its report
            continue
        rows = [(name, picture_png(strip)) for name, strip in found.strips(at_least=SHOWN_HEIGHT).items()]
        title = f"Reconstruction of {Path(video).name}"
        blocks.append(Strips(title, rows, f"Loss on the hidden cubes: {found.error:.3f}."))
    text = (
        "The encoder sees some cubes of a clip, and the decoder predicts all others. Where targets are "
        "normalised cube by cube, a prediction says the pattern of a cube; its mean and contrast are taken "
        "from the true one."
    )
    return [Note("What the network reconstructs", text), *blocks] if blocks else []


def some_videos(data: DataSettings) -> list[str]:
    """Paths of a few videos, evenly spread over the manifest of validation, or else of training.

    Empty where the manifest is gone. Rows of raw frames are no file to open, and are left out.
    """
    try:
        manifest = read_listed(data.val or data.train, data)
    except UserError:
        return []
    shown = min(SHOWN_VIDEOS, len(manifest))
    rows = [manifest.row(number * len(manifest) // shown) for number in range(shown)]
    return [row.path for row in rows if not row.pattern]
