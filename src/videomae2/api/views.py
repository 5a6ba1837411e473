"""Views of one video, from a path or from frames at hand, as the network was trained to see them."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from jaxtyping import UInt8
from torch import Tensor, stack

from videomae2.data.augment.crops import view_crops
from videomae2.data.clips import EvaluationClips
from videomae2.data.sampling import SAMPLERS
from videomae2.data.tables.manifest import Manifest
from videomae2.errors import UserError
from videomae2.records import Failure
from videomae2.settings import DataSettings, ModelSettings

Video = str | Path | UInt8[Tensor, "T C h w"]
"""A path, or uint8 frames [T, C, h, w] of any size: views are cut out of them."""


def views_of(
    video: Video, model: ModelSettings, data: DataSettings, clips: int = 1, crops: int = 1
) -> UInt8[Tensor, "V T C H W"]:
    """Views [V, T, C, H, W] of a video, V = clips x crops, clip-major, from one decode; 1 x 1 is the centre.

    Frames at hand are one clip, only cropped. UserError for a file that cannot be read, and for frames at
    hand of another number than the network's.
    """
    if isinstance(video, Tensor):
        if video.ndim != 4 or len(video) != model.num_frames:
            frames = model.num_frames
            raise UserError(
                f"expected frames [{frames}, 3, H, W], as this model reads {frames} frames, got "
                f"{list(video.shape)}; load them with load_video(path, num_frames={frames})"
            )
        return stack([frames for frames, _ in view_crops(video, model.size, crops)])
    one_row = Manifest(pa.table({"path": [str(video)]}), where=str(video))
    sampler = SAMPLERS[data.sampling](model.num_frames)
    read = EvaluationClips(one_row, data, model.size, sampler, (clips, crops))[0]
    if isinstance(read, Failure):
        raise UserError(f"{read.path}: {read.reason}")
    return stack([clip.frames for clip in read])


def trained_sampling(metadata: dict[str, Any]) -> DataSettings:
    """How clips were taken from videos in training, where the weights say so; the defaults elsewhere."""
    kept = metadata.get("data", {})
    known = {field.name for field in fields(DataSettings)}
    return replace(DataSettings(workers=0), **{name: value for name, value in kept.items() if name in known})


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
