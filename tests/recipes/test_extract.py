"""Features of windows: whole files with a header, resumed, never half of one; a detector reads them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from videomae2.api.jobs import extract_features
from videomae2.api.model import load
from videomae2.cli.main import main
from videomae2.data.features import FeatureFiles, read_feature_file
from videomae2.data.tables.annotations import AnnotatedVideo
from videomae2.data.video.decode import open_video
from videomae2.data.windows import Cutting, windows
from videomae2.errors import UserError
from videomae2.recipes import extract
from videomae2.settings import LocalizeData

from ..small_runs import SmallRuns, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 30, 12 and 5 frames; the last is shorter than a window of 8."""
    folder = tmp_path_factory.mktemp("videos")
    for name, frames in (("a", 30), ("b", 12), ("c", 5)):
        write_video(folder / f"{name}.mp4", 2, num_frames=frames)
    return folder


def test_each_window_is_what_the_network_says_of_it(videos: Path, runs: SmallRuns, tmp_path: Path) -> None:
    found = extract_features(str(videos), str(runs.finetuned), tmp_path, stride=3, batch_size=4, device="cpu")
    assert (found.written, found.done, len(found.failures)) == (3, 0, 0)
    assert [Path(path).stem for path in found.padded] == ["c"]
    model = load(runs.finetuned, device="cpu")
    cutting = Cutting(8, 1, 3, 32)
    for name, frames in (("a", 30), ("b", 12), ("c", 5)):
        values, header = read_feature_file(tmp_path / f"{name}.safetensors")
        assert values.shape == (cutting.count(frames), 48)
        with open_video(videos / f"{name}.mp4") as opened:
            expected = [model.pooled(window[None])[0] for window in windows(opened, cutting)]
        assert torch.allclose(values, torch.stack(expected), rtol=1e-4, atol=1e-5)
        told = (header["window"], header["stride"], header["fps"], header["frames"], header["padded"])
        assert told == (8, 3, 25.0, frames, name == "c")
        assert len(header["weights_sha256"]) == 64 and header["duration"] == pytest.approx(frames / 25)
    assert not list(tmp_path.glob(".*"))


def test_an_interrupted_run_goes_on_and_trusts_no_partial_file(
    videos: Path, runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path) -> extract.Extraction:
        return extract_features(str(videos), str(runs.finetuned), out, stride=2, batch_size=2, device="cpu")

    quiet, broken = tmp_path / "quiet", tmp_path / "broken"
    run(quiet)
    written = save_file

    def save(tensors: dict[str, torch.Tensor], path: Path, note: dict[str, str]) -> None:
        written(tensors, path, note)
        if len(list(broken.glob("*.safetensors"))) == already + 1:
            raise KeyboardInterrupt  # killed when the file is written and not yet in its place

    for already in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(extract, "save_file", save)
            with pytest.raises(KeyboardInterrupt):
                run(broken)
        assert len(list(broken.iterdir())) == already + 1
    # A file cut off by a crash of the machine, and one whose header promises more than there is.
    whole = (quiet / "a.safetensors").read_bytes()
    (broken / "a.safetensors").write_bytes(whole[: len(whole) // 2])
    values, header = read_feature_file(quiet / "b.safetensors")
    save_file({"features": values[:-1]}, broken / "b.safetensors", {"videomae2": json.dumps(header)})
    run(broken)
    for name in ("a", "b", "c"):
        assert (quiet / f"{name}.safetensors").read_bytes() == (broken / f"{name}.safetensors").read_bytes()
    assert run(quiet).done == 3


def test_other_features_in_the_folder_are_refused(videos: Path, runs: SmallRuns, tmp_path: Path) -> None:
    extract_features(str(videos), str(runs.finetuned), tmp_path, stride=4, device="cpu")
    with pytest.raises(UserError, match=r"a\.safetensors holds other features: expected stride 5, got 4"):
        extract_features(str(videos), str(runs.finetuned), tmp_path, stride=5, device="cpu")
    with pytest.raises(UserError, match=r"holds other features: expected released True, got False"):
        extract_features(str(videos), str(runs.finetuned), tmp_path, stride=4, released=True, device="cpu")


def test_a_detector_reads_them_by_their_header(videos: Path, runs: SmallRuns, tmp_path: Path) -> None:
    extract_features(str(videos), str(runs.finetuned), tmp_path, stride=2, device="cpu")
    files = FeatureFiles(LocalizeData(features=str(tmp_path), every=2))
    found = files.read(AnnotatedVideo("a"))
    assert (found.time.fps, found.time.window, found.time.stride) == (25.0, 8.0, 4.0)
    assert found.duration == pytest.approx(30 / 25) and found.values.shape == (6, 48)
    other = FeatureFiles(LocalizeData(features=str(tmp_path), feature_stride=4.0))
    with pytest.raises(
        UserError, match=r"expected features of stride 4, as --data.feature_stride says, got 2 in"
    ):
        other.read(AnnotatedVideo("a"))
    whole = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[:-7])
    with pytest.raises(UserError, match=r"b could not be read \(.*\); is the file cut off\?"):
        files.read(AnnotatedVideo("b"))


def test_the_command_names_what_could_not_be_read(
    videos: Path, runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "bad.mp4").write_bytes(b"no video")
    (folder / "c.mp4").write_bytes((videos / "c.mp4").read_bytes())
    line = ["features", str(folder), "--weights", str(runs.finetuned), "--out", str(tmp_path / "out")]
    assert main([*line, "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert out == "2 videos: 1 written, 0 there before, 1 failed\n"
    assert "bad.mp4 could not be read: " in err and "c.mp4 is shorter than a window" in err
    assert not (tmp_path / "out" / "bad.safetensors").exists()
    (folder / "deep").mkdir()
    (folder / "deep" / "c.mp4").write_bytes((videos / "c.mp4").read_bytes())
    assert main([*line, "--device", "cpu"]) == 2
    assert "expected videos of different names" in capsys.readouterr().err
