"""Cameras and streams, which have no length and cannot seek: clip after clip of what is shown now."""

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from videomae2.data.video.opening import Converter, DecodeError, plain, provoked_by, video_stream
from videomae2.errors import UserError

STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp")
"""Protocols of FFmpeg for what is sent as it is filmed; other URLs are files."""
SECONDS = (10.0, 30.0)
"""How long a stream may take to open, and to send the next packet."""


def is_live(source: str) -> bool:
    """Whether this is a camera's number or a stream's URL."""
    return (source.isascii() and source.isdigit()) or source.partition("://")[0].lower() in STREAMS


def live_clips(
    source: str, num_frames: int, stride: int, target_fps: float = 0.0
) -> Iterator[tuple[float, UInt8[Tensor, "T C H W"]]]:
    """Seconds since the start and `num_frames` frames [T, C, H, W], upright RGB, one clip after the other.

    Frames are `stride` apart, as if the source had `target_fps` frames a second where that is not 0. Ends
    with the stream. UserError where there is no such camera or stream, or it breaks off.
    """
    container = _open(source)
    try:
        with provoked_by(source):
            yield from clips_of(container, source, num_frames, stride, target_fps)
    finally:
        container.close()


def clips_of(
    container: Any, name: str, num_frames: int, stride: int, target_fps: float
) -> Iterator[tuple[float, UInt8[Tensor, "T C H W"]]]:
    """The clips of an open container, in the order in which its frames come."""
    stream = video_stream(container, name)
    every = max(1.0, stride * _rate_of(stream, target_fps))
    convert, kept, seen = Converter(), [], 0
    for number, frame in enumerate(container.decode(stream)):
        if number < seen * every:
            continue
        seen += 1
        kept.append(np.array(convert(frame)))  # a copy: the decoder uses its memory again
        if len(kept) == num_frames:
            yield float(frame.time or 0.0), torch.from_numpy(np.stack(kept)).permute(0, 3, 1, 2)
            kept = []


def _rate_of(stream: Any, target_fps: float) -> float:
    """Frames of the source for each frame at `target_fps`; 1 without it."""
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    return float(rate) / target_fps if rate and target_fps else 1.0


def _open(source: str) -> Any:
    if not source.isdigit():
        return _opened(source, source, None)
    if sys.platform == "darwin":
        return _opened(source, f"camera {source}", "avfoundation")
    device = Path(f"/dev/video{source}")
    if not device.exists():
        there = sorted(path.name.removeprefix("video") for path in device.parent.glob("video[0-9]*"))
        raise UserError(
            f"expected a camera, got {source}, and there is no {device}; "
            + (f"there is {', '.join(there)}" if there else "connect one, or give video files")
        )
    return _opened(str(device), f"camera {source}", "v4l2")


def _opened(source: str, name: str, form: str | None) -> Any:
    try:
        return av.open(source, format=form, timeout=SECONDS)
    except Exception as error:  # whatever FFmpeg, PyAV, a driver or a network raises
        raise DecodeError(name, f"cannot be opened: {plain(error)}") from None
