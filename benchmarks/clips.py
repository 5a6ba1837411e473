"""What the data benchmarks read: real clips where they are, large generated ones; and a count of the files opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from generated_videos import generated

from videomae2.data import window
from videomae2.data.manifest import Manifest

UCF = Path(__file__).parents[2] / "shared" / "data" / "ucf101_10" / "clips_c01"
"""Originals of UCF101: 320 x 240, MPEG-4, 25 frames a second, about 7 s."""


def sources(real: Path, work: Path) -> dict[str, list[str]]:
    """Files by source: ucf101_10 where `real` holds .avi files, and two generated videos for each distance of key frames."""
    found = sorted(real.glob("*.avi"))
    if not found:
        print(f"no UCF101 clips at {real}: their rows are skipped; name their folder with --data")
    paths = {"ucf101_10": found} if found else {}
    paths |= {f"720p_gop{gop}": generated(work, gop, 2) for gop in (250, 30)}
    return {name: [str(path) for path in each] for name, each in paths.items()}


def manifest_of(paths: Sequence[str]) -> Manifest:
    """One row for each file, all of class 0."""
    return Manifest(pa.table({"path": list(paths), "label": [0] * len(paths)}))


def count_openings() -> list[Any]:
    """Every video that the data sets of this process open from now on."""
    opened: list[Any] = []
    original = window.open_row

    def counting(*arguments: Any) -> Any:
        opened.append(original(*arguments))
        return opened[-1]

    window.open_row = counting  # type: ignore[assignment]
    return opened
