"""What happens when: stretches of a long video agree with the whole, and every file can be read back."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videomae2.api.jobs import extract_features
from videomae2.api.timeline import Segment, localize, segments_of, timeline_png, write_segments
from videomae2.cli.main import main
from videomae2.data.features import FeatureTime
from videomae2.data.tables.annotations import read_annotations
from videomae2.errors import UserError
from videomae2.heads.points import Decoding, Points
from videomae2.heads.temporal import Localizer, padded_length
from videomae2.overlap import Suppression
from videomae2.recipes.train import run_task
from videomae2.settings import LocalizeData, LocalizeModel, LocalizeOptim, LocalizeRun, LocalizeSettings

from ..small_runs import SmallRuns, write_video

MODEL = LocalizeModel(
    width=16, num_heads=2, window=5, levels=3, embed_layers=1, stem_blocks=1, head_layers=2, max_length=64,
    drop_path=0.0,
)  # fmt: skip


def test_stretches_agree_with_the_whole_in_their_middle() -> None:
    torch.manual_seed(0)
    model = replace(MODEL, max_length=256)  # a quarter is more than the receptive field of 27 features
    network = Localizer(model, 4, 2).eval()
    with torch.no_grad():  # a fresh network is sure of nothing; this one has opinions
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    features = torch.randn(700, 4)
    decode = Decoding(Suppression("none", min_score=0.0, most=10_000), 0.3)
    time = FeatureTime(25.0, 8.0, 4.0)
    parts = sorted(segments_of(iter(features), network, decode, time, 112.0))

    length = padded_length(model, 700)
    padded = torch.zeros(1, length, 4)
    padded[0, :700] = features
    with torch.no_grad():
        predicted = network(padded, torch.tensor([700]))
    whole = decode(predicted, Points.of(length, MODEL.levels), [time], [112.0])
    assert whole.scores is not None and whole.labels is not None
    rows = zip(whole.seconds.tolist(), whole.labels.tolist(), whole.scores.tolist(), strict=True)
    expected = sorted((start, end, label, score) for (start, end), label, score in rows)
    assert len(expected) > 50
    assert parts == [pytest.approx(row, abs=1e-3) for row in expected]


FOUND = [Segment(0.0, 1.5, "jump", 0.9), Segment(3661.25, 3662.0, 'run, "fast"', 0.25)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames at 25 a second."""
    return write_video(tmp_path_factory.mktemp("timeline") / "match.mp4", 1, num_frames=40)


def test_files_are_read_back(video: Path, tmp_path: Path) -> None:
    for form in ("json", "csv", "srt", "edl", "png"):
        assert write_segments(FOUND, video, tmp_path / f"out.{form}").is_file()
    rows = json.loads((tmp_path / "out.json").read_text())["results"]["match"]
    assert rows[1] == {"segment": [3661.25, 3662.0], "label": 'run, "fast"', "score": 0.25}
    with (tmp_path / "out.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["jump", 'run, "fast"']
    again = read_annotations(tmp_path / "out.csv").videos[0]
    assert [each[:3] for each in again.segments] == [(s.start, s.end, s.label) for s in FOUND]
    subtitles = (tmp_path / "out.srt").read_text().split("\n\n")
    assert subtitles[1].splitlines()[:2] == ["2", "01:01:01,250 --> 01:01:02,000"]
    edits = (tmp_path / "out.edl").read_text()
    assert "001  AX       V     C        00:00:00:00 00:00:01:13 00:00:00:00 00:00:01:13" in edits
    assert "002  AX       V     C        01:01:01:06 01:01:02:00 00:00:01:13 00:00:02:07" in edits
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert timeline_png([], video).startswith(b"\x89PNG")


def detector(folder: Path, features: Path, **data: Any) -> Path:
    """A detector of one step, on these features."""
    gt = folder / "gt.csv"
    gt.write_text("video,start_s,end_s,label\nmatch,0.2,0.6,jump\nmatch,0.9,1.3,run\n")
    settings = LocalizeSettings(
        model=MODEL,
        data=LocalizeData(train=str(gt), features=str(features), **data),
        optim=LocalizeOptim(length=1, warmup=0, ema_decay=0.0),
        run=LocalizeRun(out=str(folder / "run"), device="cpu", tensorboard=False),
    )
    return run_task(replace(settings))


def test_from_the_video_to_its_segments(
    video: Path, runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = tmp_path / "features"
    extract_features(str(video), str(runs.finetuned), features, stride=2, device="cpu")
    run = detector(tmp_path, features)
    found = localize(video, run, least_score=0.0, device="cpu")
    assert found and all(0 <= s.start < s.end <= 1.6 and s.label in ("jump", "run") for s in found)
    line = ["localize", str(video), "--weights", str(run), "--least-score", "0.0", "--device", "cpu"]
    assert main([*line, "--out", str(tmp_path / "a.srt"), "--out", str(tmp_path / "a.json")]) == 0
    assert len(json.loads((tmp_path / "a.json").read_text())["results"]["match"]) == len(found)
    assert len(capsys.readouterr().out.splitlines()) == len(found) + 2
    assert main([*line, "--out", str(tmp_path / "a.mov")]) == 2
    assert "expected a file that ends with one of .json, .csv, .srt, .edl, .png" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=r"expected the weights whose features .* was trained on .* --encoder"
    ):
        localize(video, run, encoder=runs.pretrained, device="cpu")
    with pytest.raises(UserError, match=r"expected a temporal detector, got .*, a classifier network"):
        localize(video, runs.finetuned, device="cpu")


def test_a_detector_on_features_of_others_cannot_make_them(video: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "match.npy", np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    run = detector(tmp_path, tmp_path, feature_stride=2.0, feature_window=8.0, fps=25.0)
    with pytest.raises(UserError, match="whose features cannot be made here"):
        localize(video, run, device="cpu")
