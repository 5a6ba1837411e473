"""What the data benchmarks read: real clips where they are, large generated ones; and what was opened of
them.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from generated_videos import generated

from videomae2.data import rows
from videomae2.data.tables.manifest import Manifest
from videomae2.data.video.stream import FrameStream

UCF = Path(__file__).parents[2] / "shared" / "data" / "ucf101_10" / "clips_c01"
"""Originals of UCF101: 320 x 240, MPEG-4, 25 frames a second, about 7 s."""


def sources(real: Path, work: Path) -> dict[str, list[str]]:
    """Files by source: ucf101_10 where `real` holds .avi files, and two generated videos for each distance of
    key frames.
    """
    found = sorted(real.glob("*.avi"))
    if not found:
        print(f"no UCF101 clips at {real}: their rows are skipped; name their folder with --data")
    paths = {"ucf101_10": found} if found else {}
    paths |= {f"720p_gop{gop}": generated(work, gop, 2) for gop in (250, 30)}
    return {name: [str(path) for path in each] for name, each in paths.items()}


def manifest_of(paths: Sequence[str]) -> Manifest:
    """One row for each file, all of class 0."""
    return Manifest(pa.table({"path": list(paths), "label": [0] * len(paths)}))


class Openings:
    """The videos that data sets opened, and the processor time that their decoders took."""

    def __init__(self) -> None:
        self.videos: list[Any] = []
        self.decode_seconds = 0.0

    def clear(self) -> None:
        """Begin anew."""
        self.videos, self.decode_seconds = [], 0.0

    @property
    def frames_decoded(self) -> int:
        """Of all of them."""
        return sum(video.frames_decoded for video in self.videos)


def count_openings() -> Openings:
    """Every video that the data sets of this process open from now on."""
    opened, original, decode = Openings(), rows.open_row, FrameStream._decode

    def opening(*arguments: Any) -> Any:
        opened.videos.append(original(*arguments))
        return opened.videos[-1]

    def decoding(stream: FrameStream, packet: Any) -> list[Any]:
        began = time.process_time()
        try:
            return decode(stream, packet)
        finally:
            opened.decode_seconds += time.process_time() - began

    rows.open_row = opening  # type: ignore[assignment]
    FrameStream._decode = decoding  # type: ignore[method-assign]
    return opened
