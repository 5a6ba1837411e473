"""No command overwrites what another, or a person, has made."""

from pathlib import Path

import pytest

from videomae2.cli.main import main

from ..small_runs import SmallRuns

THESIS = "years of work"


def theirs(path: Path) -> Path:
    """A file of somebody else's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(THESIS)
    return path


TINY = ["--model.name", "vit_ti16", "--model.size", "32", "--model.patch", "8", "--model.num_frames", "8"]
WRITERS: dict[str, tuple[list[str], str]] = {
    "evaluate": (["evaluate", "--weights", "{weights}", "--data.val", "{videos}", "--out", "{out}"], "a.txt"),
    "reconstruct": (["reconstruct", "{video}", "--weights", "{weights}", "--out", "{out}/a.mp4"], "a.mp4"),
    "predict": (["predict", "{video}", "--weights", "{weights}", "--out", "{out}/a.csv"], "a.csv"),
    "detect": (["detect", "{video}", "--weights", "{weights}", "--out", "{out}/a.json"], "a.json"),
    "ours": (["weights", "convert", "{weights}", "{out}/a.safetensors", "--layout", "ours"], "a.safetensors"),
    "released": (["weights", "convert", "{weights}", "{out}/a.pth", "--layout", "released"], "a.pth"),
    "transformers": (["weights", "convert", "{weights}", "{out}", "--layout", "transformers"], "config.json"),
    "sprites": (["sprites", "{out}", "--count", "2"], "videos/000000.mp4"),
    "quickstart": (["quickstart", "--out", "{out}"], "report.html"),
    "pretrain": (["pretrain", "--data.train", "{videos}", "--out", "{out}", *TINY], "report.html"),
    "finetune": (["finetune", "--data.train", "{videos}", "--out", "{out}", *TINY], "config.toml"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_there_stays(
    writer: str, runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, name = WRITERS[writer]
    out = tmp_path / "out"
    file = theirs(out / name)
    names = {
        "out": out,
        "videos": runs.videos,
        "video": runs.videos / "left" / "0.mp4",
        "weights": runs.pretrained if writer != "evaluate" else runs.finetuned,
    }
    assert main([word.format(**names) for word in line]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and str(out) in said
    assert file.read_text() == THESIS
    assert [path for path in out.rglob("*") if path.is_file()] == [file], "and nothing is put beside it"


def test_an_interrupted_set_of_sprites_is_drawn_to_its_end(tmp_path: Path) -> None:
    from videomae2.data.sprites.draw import UNFINISHED

    out = tmp_path / "set"
    assert main(["sprites", str(out), "--count", "2", "--size", "32", "--frames", "4"]) == 0
    (out / "manifest.csv").unlink()
    (out / UNFINISHED).touch()
    assert main(["sprites", str(out), "--count", "2", "--size", "32", "--frames", "4"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "boxes.json", "classes.json", "key_frames.csv", "manifest.csv", "segments.json", "videos",
    ]  # fmt: skip
