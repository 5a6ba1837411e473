"""Videos at hand: tensors, arrays, pictures, and lists of videos."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from videomae2.api.frames import are_many, as_frames
from videomae2.api.model import load
from videomae2.api.views import load_video
from videomae2.errors import UserError

from ..small_runs import SmallRuns

FRAMES = torch.randint(0, 256, (8, 3, 20, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LAST = FRAMES.permute(0, 2, 3, 1).contiguous().numpy()


def pictures() -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in LAST]


@pytest.mark.parametrize(
    "given",
    [
        FRAMES,
        FRAMES.numpy(),
        LAST,
        torch.from_numpy(LAST),
        list(LAST),
        list(FRAMES),
        tuple(FRAMES),
        pictures(),
    ],
    ids=["tensor", "array", "last", "tensor_last", "list_last", "list_tensors", "tuple", "pil"],
)
def test_every_form_is_the_same_video(given: Any) -> None:
    frames = as_frames(given)
    assert frames is not None and torch.equal(frames, FRAMES)
    assert not are_many(given)


def test_a_path_is_read_later_and_a_list_of_videos_is_many() -> None:
    assert as_frames("a.mp4") is None and as_frames(Path("a.mp4")) is None
    for many in (["a.mp4"], [Path("a")], [FRAMES], (LAST, "a.mp4"), [pictures()], []):
        assert are_many(many)


def test_pictures_of_other_modes_become_rgb() -> None:
    grey = [Image.fromarray(frame).convert("L") for frame in LAST]
    frames = as_frames(grey)
    assert frames is not None and torch.equal(frames[:, 0], frames[:, 2])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (FRAMES.float() / 255, "expected frames of type uint8 .* got float32"),
        (LAST.astype("float64"), "got float64"),
        (FRAMES[:, :2], r"expected frames .* got \[8, 2, 20, 28\]"),
        (FRAMES[0], r"got \[3, 20, 28\]"),
        (FRAMES[:0], r"got \[0, 3, 20, 28\]"),
        (np.zeros((8, 3, 0, 4), np.uint8), r"got \[8, 3, 0, 4\]"),
        (np.zeros((8, 3, 2, 6553), np.uint8), "at most 64 times as long as wide, got 2 x 6553"),
        ([LAST[0], LAST[1][:10]], "expected frames of one size"),
        (3, "expected a video as a path, a tensor, an array or a list of pictures, got 3"),
        (None, "got None"),
        ([], "an empty list"),
        (["a.mp4"], "expected a picture as a frame of a video, got 'a.mp4'"),
        (np.array(["a", "b"], dtype=object), "expected"),
    ],
)
def test_what_is_no_video_is_one_line(given: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        as_frames(given)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_many_videos_give_a_row_each(runs: SmallRuns) -> None:
    model = load(str(runs.finetuned), device="cpu")
    paths = sorted((runs.videos / "left").glob("*.mp4"))[:3]
    together = model.features(paths, clips=2, crops=3)
    assert together.shape == (3, 48)
    each = torch.stack([model.features(path, clips=2, crops=3) for path in paths])
    torch.testing.assert_close(together, each, rtol=1e-4, atol=1e-5)
    assert model.features([str(paths[0])]).shape == (1, 48)
    assert model.features(paths, tokens=True).shape == (3, 64, 48)
    ranked = model.predict(paths, clips=1, crops=1)
    assert [found[0].name for found in ranked] == [
        model.predict(path, clips=1, crops=1)[0].name for path in paths
    ]


def test_frames_and_paths_mix_and_twelve_short_videos_go_together(runs: SmallRuns) -> None:
    model = load(str(runs.finetuned), device="cpu")
    path = sorted((runs.videos / "left").glob("*.mp4"))[0]
    frames = load_video(path, num_frames=8, stride=1, size=32)
    last = frames.permute(0, 2, 3, 1).numpy()
    mixed = [path, frames, last, list(last)] * 3
    rows = model.features(mixed)
    assert rows.shape == (12, 48)
    torch.testing.assert_close(rows, rows[:1].expand(12, -1), rtol=1e-4, atol=1e-5)


def test_a_video_that_cannot_be_read_among_many_is_named(runs: SmallRuns, tmp_path: Path) -> None:
    model = load(str(runs.finetuned), device="cpu")
    good = sorted((runs.videos / "left").glob("*.mp4"))[0]
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"bad\.mp4"):
        model.features([good, tmp_path / "bad.mp4"])
    for method in (model.features, model.predict):
        with pytest.raises(UserError, match="expected at least one video, got an empty list"):
            method([])
