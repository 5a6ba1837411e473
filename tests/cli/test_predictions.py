"""`predict`: a table or JSON lines, and one broken file hides no other. `reconstruct`: video and strip."""

import json
from pathlib import Path

import av
import pytest
import torch

from videomae2.api.model import load
from videomae2.cli.predictions import print_predictions, reconstruct_file, shown_rate, write_mp4
from videomae2.errors import UserError

from ..small_runs import SmallRuns


def test_a_table_names_classes_best_first(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    print_predictions([runs.videos / "left" / "0.mp4"], str(runs.finetuned), device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("left/0.mp4")
    assert {line.split()[0] for line in lines[1:]} == {"left", "right"}
    shares = [float(line.split()[1]) for line in lines[1:]]
    assert shares == sorted(shares, reverse=True)


def test_json_is_one_object_a_line(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(runs.videos.rglob("*.mp4"))[:2]
    print_predictions(files, str(runs.finetuned), as_json=True, top=1, clips=1, crops=1, device="cpu")
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["file"] for each in objects] == [str(file) for file in files]
    assert [set(each["predictions"][0]) for each in objects] == [{"label", "name", "score"}] * 2


def test_bf16_is_told_to_be_slow_where_it_is(
    runs: SmallRuns, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})
    file = runs.videos / "left" / "0.mp4"
    print_predictions([file], str(runs.finetuned), top=1, clips=1, crops=1, device="cpu", precision="bf16")
    told = capsys.readouterr()
    assert "fp32 is faster here: add --precision fp32" in told.err
    assert told.out.startswith(str(file))


def test_a_broken_file_is_named_and_the_others_are_predicted(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    files = [tmp_path / "broken.mp4", runs.videos / "left" / "0.mp4"]
    with pytest.raises(UserError, match=r"1 of 2 files could not be read; the first is .*broken\.mp4"):
        print_predictions(files, str(runs.finetuned), as_json=True, device="cpu")
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert objects[0]["error"].startswith("not a video that FFmpeg can read") and "predictions" in objects[1]


def test_a_video_and_a_strip_are_written(runs: SmallRuns, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.mp4"
    written = reconstruct_file(
        runs.videos / "left" / "0.mp4", str(runs.pretrained), out, seed=3, device="cpu"
    )
    assert written == [out, out.with_suffix(".png")]
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert frames[0].shape == (160, 3 * 160 + 2 * 4, 3)
    assert len(frames) % 8 == 0
    with av.open(str(written[1])) as container:
        strip = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert strip.shape == (3 * 96 + 2 * 4, 8 * 96 + 7 * 4, 3)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.mp4", "out.png"]


def test_the_video_shows_the_three_clips_from_left_to_right(runs: SmallRuns, tmp_path: Path) -> None:
    video = runs.videos / "right" / "1.mp4"
    reconstruct_file(video, str(runs.pretrained), tmp_path / "out.mp4", device="cpu")
    expected = load(str(runs.pretrained), device="cpu").reconstruct(video).side_by_side(160)
    with av.open(str(tmp_path / "out.mp4")) as container:
        first = torch.from_numpy(next(container.decode(video=0)).to_ndarray(format="rgb24")).permute(2, 0, 1)
    assert (first.float() - expected[0].float()).abs().mean() < 6  # lossy, with halved colour resolution


def test_odd_sides_are_padded_and_short_clips_repeat(tmp_path: Path) -> None:
    write_mp4(torch.zeros(4, 3, 33, 51, dtype=torch.uint8), 8.0, tmp_path / "odd.mp4")
    with av.open(str(tmp_path / "odd.mp4")) as container:
        frames = [(frame.height, frame.width) for frame in container.decode(video=0)]
    assert frames == [(34, 52)] * 32


def test_the_rate_is_that_of_the_sampled_frames(runs: SmallRuns) -> None:
    video = runs.videos / "left" / "0.mp4"  # 25 frames a second
    assert shown_rate(video, 4, 0.0) == pytest.approx(6.25)
    assert shown_rate(video, 2, 12.0) == 6.0
    assert shown_rate(video, 100, 0.0) == 2.0


def test_another_suffix_is_refused(runs: SmallRuns, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"written as MP4; try .*out\.mp4"):
        reconstruct_file(runs.videos / "left" / "0.mp4", str(runs.pretrained), tmp_path / "out.gif")


def test_a_broken_video_writes_no_picture(runs: SmallRuns, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"broken\.mp4"):
        reconstruct_file(
            tmp_path / "broken.mp4", str(runs.pretrained), tmp_path / "out" / "out.mp4", device="cpu"
        )
    assert not (tmp_path / "out").exists()
