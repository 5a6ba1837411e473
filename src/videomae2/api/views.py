"""What a network is shown of a video, and what it shows of it: views, reconstructions, and clips as pictures.

Pictures are tensors in, uint8 tensors out: what the encoder saw, clips side by side, strips of frames.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Bool, Int, Shaped, UInt8
from torch import Tensor

from videomae2.api.frames import Video, as_frames
from videomae2.bounds import shown
from videomae2.config import known_settings
from videomae2.data.augment.crops import view_crops
from videomae2.data.clips import EvaluationClips
from videomae2.data.sampling import SAMPLERS
from videomae2.data.tables.manifest import Manifest, read_listed
from videomae2.errors import UserError
from videomae2.geometry import TokenGrid
from videomae2.records import Failure
from videomae2.report.charts import picture_png
from videomae2.report.page import Block, Note, Strips
from videomae2.settings import DataSettings, ModelSettings

GAP = 255
"""Grey value of the gaps between pictures: white, the colour of the pages that show them."""


def token_pixels(grid: TokenGrid, tokens: Int[Tensor, "V"]) -> Bool[Tensor, "T 1 H W"]:
    """True at the pixels of these tokens; the axis of 1 broadcasts over the channels."""
    chosen = torch.zeros(grid.num_tokens, dtype=torch.bool, device=tokens.device)
    chosen[tokens] = True
    for axis, side in enumerate((grid.tubelet, grid.patch, grid.patch)):
        chosen = chosen.reshape(grid.shape) if axis == 0 else chosen
        chosen = chosen.repeat_interleave(side, dim=axis)
    return chosen[:, None]


def to_uint8(frames: Shaped[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Convert floats in [0, 1] to uint8: clipped, rounded, NaN as grey. uint8 passes through."""
    if frames.dtype == torch.uint8:
        return frames
    # A NaN converted to an integer is undefined behaviour, and another value on each device.
    return (frames.float().nan_to_num(0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def hide(
    frames: UInt8[Tensor, "T C H W"], grid: TokenGrid, visible: Int[Tensor, "V"], shade: int = 128
) -> UInt8[Tensor, "T C H W"]:
    """The clip as the encoder saw it: every pixel outside the visible tokens has the grey value `shade`."""
    grid.check_clip((1, *frames.shape))
    return torch.where(token_pixels(grid, visible), frames, torch.full_like(frames, shade))


def side_by_side(clips: Sequence[UInt8[Tensor, "T C H W"]], gap: int = 4) -> UInt8[Tensor, "T C H W2"]:
    """Clips of one shape next to each other, `gap` white pixels between them."""
    return _join(clips, gap, axis=3)


def stack(pictures: Sequence[UInt8[Tensor, "C H W"]], gap: int = 4) -> UInt8[Tensor, "C H2 W"]:
    """Pictures of one shape above each other, `gap` white pixels between them."""
    return _join(pictures, gap, axis=1)


def strip(frames: UInt8[Tensor, "T C H W"], count: int = 8, gap: int = 4) -> UInt8[Tensor, "C H W2"]:
    """`count` frames in a row, evenly spread from the first to the last; all where the clip has fewer."""
    if count < 1:
        raise UserError(f"expected a strip of at least 1 frame, got {count}")
    return _join(list(frames[spread(len(frames), count).to(frames.device)]), gap, axis=2)


def spread(frames: int, count: int) -> Int[Tensor, "n"]:
    """`count` of so many frames, evenly spread; all where there are fewer."""
    # Both ends included: where a movement starts and where it ends says most about it.
    return torch.linspace(0, frames - 1, min(count, frames)).round().long()


def enlarge(pictures: UInt8[Tensor, "*n C H W"], at_least: int) -> UInt8[Tensor, "*n C H2 W2"]:
    """Repeat pixels a whole number of times, until pictures are at least `at_least` pixels high.

    Interpolation would blur the cubes of tiny clips, which are what one wants to see.
    """
    factor = max(1, -(-at_least // pictures.shape[-2]))
    return pictures.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def _join(parts: Sequence[Tensor], gap: int, axis: int) -> Tensor:
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) != 1:
        raise UserError(f"expected pictures of one shape to join, got shapes {sorted(shapes)}")
    spacer_shape = list(parts[0].shape)
    spacer_shape[axis] = gap
    spacer = torch.full(spacer_shape, GAP, dtype=torch.uint8, device=parts[0].device)
    joined = [piece for part in parts for piece in (spacer, part)][1:]  # no gap before the first
    return torch.cat(joined, dim=axis)


MAX_VIEWS = 1024
"""Clips, and crops, of one video: far more than any protocol has."""


def must_be_views(clips: int, crops: int) -> None:
    """UserError for numbers of clips and crops that no video has."""
    for name, value in (("clips", clips), ("crops", crops)):
        if type(value) is not int or not 1 <= value <= MAX_VIEWS:
            raise UserError(
                f"expected {name} from 1 to {MAX_VIEWS}, got {shown(value)}; the paper has 5 and 3"
            )


def views_of(
    video: Video, model: ModelSettings, data: DataSettings, clips: int = 1, crops: int = 1
) -> UInt8[Tensor, "V T C H W"]:
    """Views [V, T, C, H, W] of a video, V = clips x crops, clip-major, from one decode; 1 x 1 is the centre.

    Frames at hand are one clip, only cropped. UserError for a file that cannot be read, and for frames at
    hand of another number than the network's.
    """
    must_be_views(clips, crops)
    at_hand = as_frames(video)
    if at_hand is not None:
        if len(at_hand) != model.num_frames:
            frames = model.num_frames
            raise UserError(
                f"expected frames [{frames}, 3, H, W], as this model reads {frames} frames, got "
                f"{list(at_hand.shape)}; load them with load_video(path, num_frames={frames})"
            )
        return torch.stack([frames for frames, _ in view_crops(at_hand, model.size, crops)])
    one_row = Manifest(pa.table({"path": [str(video)]}), where=str(video))
    sampler = SAMPLERS[data.sampling](model.num_frames)
    read = EvaluationClips(one_row, data, model.size, sampler, (clips, crops))[0]
    if isinstance(read, Failure):
        raise UserError(f"{read.path}: {read.reason}")
    return torch.stack([clip.frames for clip in read])


def trained_sampling(metadata: dict[str, Any]) -> DataSettings:
    """How clips were taken from videos in training, where the weights say so; the defaults elsewhere."""
    kept = metadata.get("data", {})
    if not isinstance(kept, Mapping):
        raise UserError(
            f"expected the sampling of training as an object, got {shown(kept)}; write the weights again"
        )
    known = known_settings(DataSettings)
    where = "in the metadata of the weights"
    told = {name: known[name].take(value, where) for name, value in kept.items() if name in known}
    return replace(DataSettings(workers=0), **told)


def load_video(
    path: str | Path, num_frames: int = 16, stride: int = 4, size: int = 224
) -> UInt8[Tensor, "T C H W"]:
    """The middle of a video as one clip: `num_frames` frames, every `stride`-th, cut to the centre square.

    uint8 [T, C, size, size], RGB, upright; a shorter video repeats its last frames. UserError if it cannot be
    read.
    """
    for name, value in {"num_frames": num_frames, "stride": stride, "size": size}.items():
        if value < 1:
            raise UserError(f"expected {name} of 1 or more, got {value}; leave it out for the default")
    model = ModelSettings(num_frames=num_frames, size=size)
    return views_of(path, model, DataSettings(stride=stride, workers=0))[0]


SHOWN_VIDEOS = 3
"""Videos reconstructed for the report of a pre-training run."""
SHOWN_FRAMES, SHOWN_HEIGHT = 8, 96
"""Frames of a strip, and the pixels of height that small ones are enlarged to."""


TRUE_MEANS = "true means only"
"""The row that shows what a reconstruction borrows from the truth."""


@dataclass(frozen=True)
class Reconstruction:
    """A clip, what the encoder saw of it, and what the decoder made of that: uint8 [T, C, H, W] each.

    The reconstruction keeps the visible cubes as they are. Where targets were normalised, a prediction says
    only the pattern of a cube; its mean and contrast are taken from the true cube, as is usual for pictures
    of this kind. `means` is what a network without any skill would look like then: every hidden cube at the
    true mean of its colours; None where targets were raw pixels, of which nothing is borrowed. `error` is
    the training loss on the hidden cubes.
    """

    original: UInt8[Tensor, "T C H W"]
    seen: UInt8[Tensor, "T C H W"]
    rebuilt: UInt8[Tensor, "T C H W"]
    error: float
    means: UInt8[Tensor, "T C H W"] | None = None

    @property
    def clips(self) -> dict[str, UInt8[Tensor, "T C H W"]]:
        """The clips by the names that a reader sees."""
        borrowed = {} if self.means is None else {TRUE_MEANS: self.means}
        shown = {"original": self.original, "seen by the encoder": self.seen}
        return shown | borrowed | {"reconstruction": self.rebuilt}

    def side_by_side(self, at_least: int = 0) -> UInt8[Tensor, "T C H W2"]:
        """The clips of `clips` in a row, enlarged to `at_least` pixels of height."""
        return side_by_side([enlarge(clip, at_least) for clip in self.clips.values()])

    def strip(self, count: int = SHOWN_FRAMES, at_least: int = 0) -> UInt8[Tensor, "C H2 W2"]:
        """A row of `count` frames for each of `clips`."""
        return stack(list(self.strips(count, at_least).values()))

    def save(self, path: str | Path, fps: float = 8.0, title: str = "") -> Path:
        """Write it labelled and enlarged: a film (.mp4, .gif) at `fps` frames a second, or rows (.png)."""
        from videomae2.api.pictures import save_reconstruction

        return save_reconstruction(self, path, fps, title)

    def strips(self, count: int = SHOWN_FRAMES, at_least: int = 0) -> dict[str, UInt8[Tensor, "C H W2"]]:
        """The rows of `strip` one by one, by name."""
        return {name: strip(enlarge(clip, at_least), count) for name, clip in self.clips.items()}


def frame_pngs(clip: UInt8[Tensor, "T C H W"], count: int = SHOWN_FRAMES) -> list[bytes]:
    """`count` frames of a clip, evenly spread, each as PNG of its own: a page lays them out."""
    return [picture_png(frame) for frame in enlarge(clip[spread(len(clip), count)], SHOWN_HEIGHT)]


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
        rows = [(name, frame_pngs(clip)) for name, clip in found.clips.items()]
        title = f"Reconstruction of {Path(video).name}"
        borrows = found.means is not None
        caption = f"Loss on the hidden cubes: {found.error:.3f}" + (f" {KNOWS_NOTHING}" if borrows else ".")
        blocks.append(Strips(title, rows, caption))
    if not blocks:
        return []
    text = "The encoder sees some cubes of a clip, and the decoder predicts all others."
    return [Note("What the network reconstructs", f"{text} {BORROWED}" if borrows else text), *blocks]


KNOWS_NOTHING = "(1.0 = knows nothing: every hidden cube is predicted flat)."
BORROWED = (
    "A prediction says the pattern of a cube; its mean and contrast are taken from the true cube, since "
    f'targets are normalised cube by cube. The row "{TRUE_MEANS}" shows how much of the picture is '
    "borrowed: what a reconstruction has beyond it, the network has predicted."
)


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
