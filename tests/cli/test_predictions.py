"""`predict`: files, folders, globs, lists; a table, JSON lines or a file; one broken video hides no other."""

import csv
import json
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from videomae2.api.model import load
from videomae2.api.pictures import shown_rate
from videomae2.cli import predictions
from videomae2.cli.predictions import listed, predict_videos
from videomae2.errors import UserError

from ..small_runs import SmallRuns
from .conftest import Run


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    return tmp_path / "broken.mp4"


def test_a_table_names_classes_best_first(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    predict_videos([str(runs.videos / "left" / "0.mp4")], str(runs.finetuned), device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("left/0.mp4")
    assert {line.split()[0] for line in lines[1:]} == {"left", "right"}
    shares = [float(line.split()[1]) for line in lines[1:]]
    assert shares == sorted(shares, reverse=True)


def test_json_is_one_object_a_line(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    predict_videos(
        [str(runs.videos)], str(runs.finetuned), as_json=True, top=1, clips=1, crops=1, device="cpu"
    )
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["file"] for each in objects] == [str(file) for file in sorted(runs.videos.rglob("*.mp4"))]
    assert [set(each["predictions"][0]) for each in objects] == [{"label", "name", "score"}] * 6


def test_bf16_is_told_to_be_slow_where_it_is(
    runs: SmallRuns, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})
    file = str(runs.videos / "left" / "0.mp4")
    predict_videos([file], str(runs.finetuned), top=1, clips=1, crops=1, device="cpu", precision="bf16")
    told = capsys.readouterr()
    assert "fp32 is faster here: add --precision fp32" in told.err
    assert told.out.startswith(file)


def test_a_broken_file_is_named_and_the_others_are_predicted(
    runs: SmallRuns, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(broken), str(runs.videos / "left" / "0.mp4")]
    with pytest.raises(UserError, match=r"1 of 2 files could not be read; the first is .*broken\.mp4"):
        predict_videos(files, str(runs.finetuned), as_json=True, device="cpu")
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert objects[0]["error"].startswith("not a video that FFmpeg can read") and "predictions" in objects[1]
    with pytest.raises(UserError, match=r"broken\.mp4: not a video"):
        predict_videos(files[:1], str(runs.finetuned), device="cpu")


def test_folders_globs_lists_and_urls_are_videos(runs: SmallRuns, tmp_path: Path) -> None:
    videos = runs.videos
    (tmp_path / "list.csv").write_text(f"path,start,end\n{videos}/left/1.mp4,2,9\n")
    (tmp_path / "notes.txt.bak").write_text("no video")
    names = [
        str(videos / "right"),
        f"{videos}/l*/[01].mp4",
        str(tmp_path / "list.csv"),
        "s3://bucket/clip.mp4",
        "clip without ending",
    ]
    rows = [listed(names).row(number) for number in range(8)]
    assert [row.path.removeprefix(f"{videos}/") for row in rows] == [
        *("right/0.mp4", "right/1.mp4", "right/2.mp4", "left/0.mp4", "left/1.mp4", "left/1.mp4"),
        *("s3://bucket/clip.mp4", "clip without ending"),
    ]
    assert (rows[5].start, rows[5].end) == (2, 9)
    for pattern, told in (
        (f"{tmp_path}/*.avi", "no video matches"),
        (f"{tmp_path}/*.bak", "only 1 other file"),
    ):
        with pytest.raises(UserError, match=told):
            listed([pattern])


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_file_has_a_row_for_each_video(
    runs: SmallRuns, broken: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = broken.parent / "new" / f"preds{ending}"
    files = [str(runs.videos / "right" / "2.mp4"), str(broken)]
    for _ in range(2):  # its own file is replaced
        with pytest.raises(
            UserError, match=r"1 of 2 files could not be read; .*; column error of .* says why"
        ):
            predict_videos(files, str(runs.finetuned), out=out, clips=1, crops=1, device="cpu")
    told = capsys.readouterr()
    assert told.out == f"{out}\n" * 2
    assert "2 rows, 1 predicted, 1 could not be read" in told.err
    best = load(runs.finetuned, device="cpu").predict(files[0], clips=1, crops=1)
    if ending == ".jsonl":
        good, bad = (json.loads(line) for line in out.read_text().splitlines())
        assert good["predictions"][0]["name"] == best[0].name
    else:
        if ending == ".csv":
            with out.open(newline="") as file:
                good, bad = csv.DictReader(file)
        else:
            good, bad = pyarrow.parquet.read_table(out).to_pylist()
        assert [good["name_1"], int(good["label_2"])] == [best[0].name, best[1].label]
        assert float(good["score_1"]) == pytest.approx(best[0].score)
        assert not good["error"] and not bad["name_1"]
    assert bad["file"] == str(broken) and bad["error"].startswith("not a video")
    assert [each.name for each in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "path,label\n"), ("a.jsonl", "{}\n"), ("a.parquet", "x")]
)
def test_another_file_is_not_replaced(runs: SmallRuns, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name} is there and holds no predictions; give another --out"):
        predict_videos([str(runs.videos)], "no weights are read", out=tmp_path / name)
    assert (tmp_path / name).read_text() == content


def test_another_ending_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"written as \.csv, \.jsonl, \.parquet, got .*x\.txt; try .*x\.csv"):
        predict_videos(["clip.mp4"], "w", out=tmp_path / "x.txt")


def test_a_camera_is_watched_alone(runs: SmallRuns, run: Run) -> None:
    code, _, err = run("predict", "0", "clip.mp4", "--weights", str(runs.finetuned))
    assert code == 2 and "expected a camera or a stream alone, got 0 beside 1 more" in err


def test_a_stream_has_an_answer_for_each_clip(
    runs: SmallRuns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clip = torch.zeros(8, 3, 32, 40, dtype=torch.uint8)

    def clips(*_: object) -> object:
        yield 0.5, clip
        yield 1.0, clip
        raise KeyboardInterrupt

    monkeypatch.setattr(predictions, "live_clips", clips)
    predict_videos(["0"], str(runs.finetuned), as_json=True, device="cpu", out=tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["file"], line["seconds"]) for line in lines] == [("0", 0.5), ("0", 1.0)]
    assert "watching 0; Ctrl-C ends it" in capsys.readouterr().err


def test_reconstruct_writes_what_its_name_says(runs: SmallRuns, tmp_path: Path, run: Run) -> None:
    video = str(runs.videos / "left" / "0.mp4")
    out = tmp_path / "out.gif"
    assert run("reconstruct", video, "--weights", str(runs.pretrained), "-o", str(out))[:2] == (0, f"{out}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["out.gif"]
    code, _, err = run("reconstruct", video, "--weights", str(runs.pretrained), "-o", video)
    assert code == 2 and "is there and is no reconstruction of ours" in err


def test_the_rate_is_that_of_the_sampled_frames(runs: SmallRuns) -> None:
    video = runs.videos / "left" / "0.mp4"  # 25 frames a second
    assert shown_rate(video, 4, 0.0) == pytest.approx(6.25)
    assert shown_rate(video, 2, 12.0) == 6.0
    assert shown_rate(video, 100, 0.0) == 2.0


def test_a_broken_video_writes_no_picture(runs: SmallRuns, broken: Path, run: Run) -> None:
    out = broken.parent / "out" / "out.mp4"
    code, _, err = run("reconstruct", str(broken), "--weights", str(runs.pretrained), "-o", str(out))
    assert code == 2 and "broken.mp4: not a video" in err
    assert not out.parent.exists()
