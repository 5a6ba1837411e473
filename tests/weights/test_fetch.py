"""Hub names: told from paths, fetched into a folder, and one clear line where that fails."""

from pathlib import Path

import pytest
import torch

from videomae2.errors import UserError
from videomae2.weights import read_checkpoint
from videomae2.weights.fetch import is_hub_name

from ..small_networks import autoencoder, classifier, hub_folder


def test_a_hub_name_is_fetched_once_and_read_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub_folder(tmp_path / "hub", classifier())
    asked: list[tuple[str, str]] = []

    def download(repo: str, file: str) -> str:
        from huggingface_hub.errors import EntryNotFoundError

        asked.append((repo, file))
        if not (folder / file).exists():
            raise EntryNotFoundError("404")
        return str(folder / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("videomae2.weights.fetch._require_answer", lambda *_: None)
    checkpoint = read_checkpoint("OpenGVLab/VideoMAEv2-Base")
    assert (checkpoint.layout, checkpoint.source) == ("hub", "OpenGVLab/VideoMAEv2-Base")
    assert asked == [
        ("OpenGVLab/VideoMAEv2-Base", "model.safetensors"),
        ("OpenGVLab/VideoMAEv2-Base", "config.json"),
        ("OpenGVLab/VideoMAEv2-Base", "preprocessor_config.json"),
    ]
    torch.save({"model": autoencoder().state_dict()}, folder / "pt.pth")
    assert read_checkpoint("OpenGVLab/VideoMAE2/pt.pth").kind == "pretrain"
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"holds none of .*; name the file: OpenGVLab/VideoMAE2/path/in/repository.pth"
    ):
        read_checkpoint("OpenGVLab/VideoMAE2")


def test_an_unreachable_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"no file or folder here, and .*check the path or the network"
    ) as error:
        read_checkpoint("nobody-at-all/no-such-model")
    assert "\n" not in str(error.value)


def test_what_is_no_hub_name_is_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_hub_name("OpenGVLab/VideoMAEv2-Base")
    assert is_hub_name("OpenGVLab/VideoMAE2/mae-g/vit_g.pth")
    for name in ("checkpoints/x", "work_dirs/b", "org/name/step-100", "org/name/a.txt", "o" * 300 + "/b"):
        assert not is_hub_name(name)
    for name in ("weights.pth", "runs/a", "weights/model.pth", "/tmp/a/b", "./a/b", "a/../b", "a b/c"):
        assert not is_hub_name(name)
    with pytest.raises(
        UserError, match=r"there are no weights at runs/missing.pth; expected a .safetensors or .pth file"
    ):
        read_checkpoint("runs/missing.pth")
