"""Many videos: the answers of one by one, in order, with a failure in the place of what cannot be read."""

import multiprocessing
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from videomae2.api import answers
from videomae2.api.model import Model, load
from videomae2.api.views import load_video
from videomae2.data.tables.manifest import Manifest
from videomae2.errors import UserError
from videomae2.records import Failure

from ..small_runs import SmallRuns


@pytest.fixture
def model(runs: SmallRuns) -> Model:
    return load(runs.finetuned, device="cpu")


@pytest.fixture
def files(runs: SmallRuns, tmp_path: Path) -> list[Path]:
    """Three videos, the second of them broken."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    return [runs.videos / "left" / "0.mp4", broken, runs.videos / "right" / "1.mp4"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_video_is_a_record_in_its_place(model: Model, files: list[Path], workers: int) -> None:
    found = model.predict(files, clips=2, crops=3, workers=workers, on_error="record")
    assert found[0] == model.predict(files[0], clips=2, crops=3)
    assert found[2] == model.predict(files[2], clips=2, crops=3)
    assert isinstance(found[1], Failure)
    assert (found[1].row, found[1].path) == (1, str(files[1]))
    assert "not a video" in found[1].reason


@pytest.mark.usefixtures("unchecked")
def test_a_broken_video_is_an_error_unless_records_are_asked_for(model: Model, files: list[Path]) -> None:
    with pytest.raises(UserError, match=r"broken\.mp4: not a video"):
        model.predict(files)
    with pytest.raises(UserError, match=r"broken\.mp4: not a video"):
        model.features(files)
    with pytest.raises(UserError, match="expected on_error raise or record, got 'skip'"):
        model.predict(files, on_error="skip")  # type: ignore[call-overload]


def test_features_of_many_are_those_of_each(model: Model, runs: SmallRuns, files: list[Path]) -> None:
    videos = sorted(runs.videos.rglob("*.mp4"))
    together = model.features(videos)
    torch.testing.assert_close(together, torch.stack([model.features(each) for each in videos]))
    first, failure, _ = model.features(files, on_error="record")
    torch.testing.assert_close(first, model.features(files[0]))
    assert isinstance(failure, Failure)


def test_answers_come_one_after_the_other(model: Model, files: list[Path]) -> None:
    coming = model.predict_each([*files, "gone.mp4"], top=1, clips=1, crops=1)
    assert [isinstance(each, Failure) for each in coming] == [False, True, False, True]


def test_rows_of_a_manifest_may_be_parts_of_a_file(model: Model, files: list[Path]) -> None:
    path = str(files[0])
    manifest = Manifest(pa.table({"path": [path, path], "start": [0, 3], "end": [-1, 11]}))
    whole, part = model.predict_each(manifest, clips=1, crops=1)
    assert whole == model.predict(path, clips=1, crops=1)
    assert part != whole


def test_frames_at_hand_and_files_may_be_mixed(model: Model, files: list[Path]) -> None:
    frames = load_video(files[0], num_frames=8, stride=1, size=32)
    found = model.predict([frames, str(files[1]), files[2]], clips=1, crops=1, on_error="record")
    assert found[0] == model.predict(files[0], clips=1, crops=1)
    assert isinstance(found[1], Failure) and found[1].row == 1
    assert found[2] == model.predict(files[2], clips=1, crops=1)


def test_a_few_files_and_a_process_that_may_have_none_get_no_loader_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert answers._workers(answers.FEW) == 0
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["fork"])
    assert answers._workers(1000) >= 1
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn", "fork"])
    assert answers._workers(1000) == 0


def test_weights_whose_scores_are_not_finite_are_an_error(model: Model, files: list[Path]) -> None:
    with torch.no_grad():
        model.module.get_parameter("head.bias")[0] = float("nan")
    with pytest.raises(UserError, match="expected finite scores, got NaN or infinity: the weights"):
        model.predict(files, on_error="record")
