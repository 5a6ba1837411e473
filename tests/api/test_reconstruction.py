"""Pictures of a reconstruction: for a notebook, and as blocks of a report."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from videomae2.api.reconstruction import Reconstruction, reconstruction_blocks, some_videos
from videomae2.errors import UserError
from videomae2.report.page import Note, Strips

from ..small_runs import DATA, SmallRuns


@pytest.fixture
def found() -> Reconstruction:
    """Three clips of 8 frames of 32x32, each of one grey."""
    first, second, third = (torch.full((8, 3, 32, 32), grey, dtype=torch.uint8) for grey in (10, 20, 30))
    return Reconstruction(first, second, third, error=0.5)


def test_clips_side_by_side_and_strips_of_frames(found: Reconstruction) -> None:
    assert found.side_by_side().shape == (8, 3, 32, 3 * 32 + 2 * 4)
    assert found.side_by_side(at_least=60).shape == (8, 3, 64, 3 * 64 + 2 * 4)
    strip = found.strip(4)
    assert strip.shape == (3, 3 * 32 + 2 * 4, 4 * 32 + 3 * 4)
    assert [int(strip[0, row, 0]) for row in (0, 36, 72)] == [10, 20, 30]


def test_each_row_of_a_strip_has_its_name(found: Reconstruction) -> None:
    strips = found.strips(4, at_least=64)
    assert list(strips) == ["original", "seen by the encoder", "reconstruction"]
    assert {strip.shape for strip in strips.values()} == {(3, 64, 4 * 64 + 3 * 4)}


def test_blocks_leave_out_videos_that_cannot_be_read(found: Reconstruction) -> None:
    def reconstruct(video: str | Path) -> Reconstruction:
        if video == "gone.mp4":
            raise UserError("gone")
        return found

    note, strips = reconstruction_blocks(reconstruct, ["gone.mp4", "folder/there.mp4"])
    assert isinstance(note, Note) and isinstance(strips, Strips)
    assert (strips.title, strips.caption) == (
        "Reconstruction of there.mp4",
        "Loss on the hidden cubes: 0.500.",
    )
    assert len(strips.rows) == 3 and all(png.startswith(b"\x89PNG") for _, png in strips.rows)
    assert reconstruction_blocks(reconstruct, ["gone.mp4"]) == []


def test_a_few_videos_are_spread_over_the_manifest(runs: SmallRuns, tmp_path: Path) -> None:
    data = replace(DATA, train="not read", val=str(runs.videos))
    names = [str(Path(path).relative_to(runs.videos)) for path in some_videos(data)]
    assert names == ["left/0.mp4", "left/2.mp4", "right/1.mp4"]
    assert some_videos(replace(DATA, train=str(runs.videos))) == some_videos(data)
    assert some_videos(replace(DATA, train=str(tmp_path / "gone.csv"))) == []
