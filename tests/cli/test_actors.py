"""`detect` on raw videos: what it prints and writes, that it reads back, and its mistakes in one line."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from videomae2.api.detectors import Moment, WholeFrame
from videomae2.api.model import Model, load
from videomae2.api.raw_video import Request
from videomae2.cli.actors import _gliding
from videomae2.cli.main import main
from videomae2.data.key_frames import KeyFrameViews, read_key_frames
from videomae2.data.tables.box_files import read_annotations
from videomae2.data.video.decode import probe
from videomae2.errors import UserError
from videomae2.heads.spatial import build_detector
from videomae2.settings import DetectData
from videomae2.weights import save_safetensors

from ..small_networks import stirred
from ..small_runs import MODEL, SmallRuns, write_video


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small detector of three actions, sampled by number."""
    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    extra = {"data": {"sampling": "key", "stride": 2}, "head": {"roi_size": 3}, "detect": {"test_size": 32}}
    model = stirred(build_detector(MODEL, 3), 3)
    save_safetensors(
        path, model.state_dict(), MODEL, "detector", class_names=["run", "sit", "wave"], extra=extra
    )
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds and a bit of a square that moves."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 1, num_frames=80)


def run(*words: object) -> int:
    return main(["detect", *map(str, words)])


def test_it_prints_writes_and_reads_back(weights: Path, video: Path, tmp_path: Path, capsys: Any) -> None:
    least = ("--least", 0, "--every", "1s")
    assert (
        run(video, "--weights", weights, "--out", tmp_path / "o.json", "--out", tmp_path / "o.csv", *least)
        == 0
    )
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{video}\n    0:00.50  #1 ") and len(shown.out.splitlines()) == 4
    assert (
        "detector motion: threshold 0, licence" in shown.err
        and "warning: actors are found by motion" in shown.err
    )
    content = json.loads((tmp_path / "o.json").read_text())
    assert [each["time"] for each in content["key_frames"]] == [0.5, 1.5, 2.5]
    assert content["detector"]["name"] == "motion" and content["video"] == str(video)
    rows = list(csv.DictReader((tmp_path / "o.csv").open()))
    assert {row["label"] for row in rows} == {"run", "sit", "wave"}
    found = [read_annotations(tmp_path / name, scored=True) for name in ("o.json", "o.csv")]
    assert {note.box for note in found[0].notes} == {note.box for note in found[1].notes}
    # Read back as boxes, either file gives the same answers again.
    for name in ("o.json", "o.csv"):
        assert (
            run(
                video,
                "--weights",
                weights,
                "--boxes",
                tmp_path / name,
                "--out",
                tmp_path / f"again_{name}.json",
                *least,
            )
            == 0
        )
        again = json.loads((tmp_path / f"again_{name}.json").read_text())
        assert again["key_frames"] == content["key_frames"]


def test_the_drawn_video_shows_every_frame(weights: Path, video: Path, tmp_path: Path) -> None:
    assert run(video, "--weights", weights, "--out", tmp_path / "drawn.mp4") == 0
    shown, given = probe(tmp_path / "drawn.mp4"), probe(video)
    assert (shown.num_frames, shown.width, shown.height) == (80, given.width, given.height)


def test_a_folder_takes_all_three_of_every_video(weights: Path, video: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.mp4"
    shutil.copy(video, other)
    assert run(video, other, "--weights", weights, "--out", tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{stem}{kind}" for stem in ("clip", "other") for kind in (".json", ".csv", ".mp4")}


def test_a_clip_of_raw_video_is_that_of_an_evaluation(weights: Path, video: Path, tmp_path: Path) -> None:
    """Every key frame's clip equals, to the bit, the one that the loader cuts by seeking."""
    seen: list[Moment] = []

    class Watching(WholeFrame):
        def __call__(self, moments: Any) -> Any:
            seen.extend(moments)
            return super().__call__(moments)

    model = load(weights, device="cpu")
    frames = list(model.detections(video, Watching(), Request(0.3)))
    assert len(frames) == len(seen) == 11
    lines = [f"{video},{each.seconds},0,0,8,8,run" for each in seen]
    (tmp_path / "boxes.csv").write_text("\n".join(["video,time,x1,y1,x2,y2,label", *lines]))
    data = DetectData(stride=2, workers=0)
    views = KeyFrameViews(read_key_frames(str(tmp_path / "boxes.csv"), data), data, 8, 32)
    for place, moment in enumerate(seen):
        clips = views[place]
        assert isinstance(clips, list) and torch.equal(clips[0].frames, moment.clip), place


def test_in_python_it_is_one_record_a_key_frame(weights: Path, video: Path) -> None:
    model = load(weights, device="cpu")
    found = model.detect(video, detector="whole", every=1.0, least=0.0)
    assert [each.time for each in found] == [0.5, 1.5, 2.5]
    assert all([actor.actor for actor in each.actors] == [1] for each in found)
    assert found[0].actors[0].box == (0.0, 0.0, 48.0, 40.0) and len(found[0].actors[0].actions) == 3
    assert found[0].actors[0].actions[0].score >= found[0].actors[0].actions[1].score


@pytest.mark.parametrize("frames", [1, 5])
def test_a_video_shorter_than_a_clip(frames: int, weights: Path, tmp_path: Path) -> None:
    short = write_video(tmp_path / "short.mp4", 1, num_frames=frames)
    found = load(weights, device="cpu").detect(short, detector="whole")
    assert len(found) == 1


def test_a_video_that_is_shown_turned(weights: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    with av.open(str(turned), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.set_display_rotation(90)
        for shade in range(30):
            picture = np.full((32, 48, 3), 4 * shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert run(turned, "--weights", weights, "--detector", "whole", "--out", tmp_path / "o") == 0
    content = json.loads((tmp_path / "o" / "turned.json").read_text())
    assert content["key_frames"][0]["actors"][0]["box"] == [0, 0, 32, 48]
    assert probe(tmp_path / "o" / "turned.mp4").height == 48


def test_boxes_glide_between_key_frames(weights: Path, video: Path) -> None:
    model: Model = load(weights, device="cpu")
    first, second = model.detect(video, detector="whole", every=1.0)[:2]
    moved = replace(second, actors=(replace(second.actors[0], box=(10.0, 0.0, 58.0, 40.0)),))
    (drawn,) = _gliding([first, moved], 0.75, 1.0)
    np.testing.assert_allclose(drawn.box, [2.5, 0, 50.5, 40])
    (late,) = _gliding([first, moved], 9.0, 2.0)
    np.testing.assert_allclose(late.box, [20, 0, 116, 80])


def test_mistakes_are_one_line_and_exit_2(
    weights: Path, video: Path, runs: SmallRuns, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "late.csv").write_text("video,time,x1,y1,x2,y2,label\nclip,99,0,0,9,9,run\n")
    (tmp_path / "cols.csv").write_text("video,time,left\nclip,9,0\n")
    mistakes = {
        "detect needs at least one video file": (),
        "no such file": (tmp_path / "none.mp4",),
        "expected --every in seconds": (video, "--every", "soon"),
        "expected a key frame every 0.01": (video, "--every", "0"),
        "expected a detector as": (video, "--detector", "yolo"),
        "no ONNX file at": (video, "--detector", "onnx:none.onnx"),
        "expected columns video,time": (video, "--boxes", tmp_path / "cols.csv"),
        "the key time 99 s is beyond its end at 3.2 s": (video, "--boxes", tmp_path / "late.csv"),
        "expected --out to end in .json": (video, "--out", tmp_path / "x.txt"),
    }
    for message, words in mistakes.items():
        assert run(*words, "--weights", weights) == 2, message
        err = capsys.readouterr().err.strip().splitlines()
        assert message in err[-1] and err[-1].startswith("error: "), (message, err)
    assert run(video, "--weights", runs.finetuned) == 2
    assert "network without a head over boxes" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_a_broken_video_among_others_is_named_and_the_rest_are_done(
    weights: Path, video: Path, tmp_path: Path, capsys: Any
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert run(broken, video, "--weights", weights, "--out", tmp_path / "out") == 2
    assert "1 of 2 videos could not be read" in capsys.readouterr().err
    assert (tmp_path / "out" / "clip.json").is_file() and not (tmp_path / "out" / "broken.json").exists()


def test_weights_without_a_head_over_boxes_are_refused_in_python(runs: SmallRuns, video: Path) -> None:
    with pytest.raises(UserError, match="is a classifier network without a head over boxes"):
        load(runs.finetuned, device="cpu").detect(video)
