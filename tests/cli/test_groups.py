"""`weights show` and `weights convert` on what users have: a run, finished or not, and files."""

from pathlib import Path

import pytest

from videomae2.api.model import load
from videomae2.cli import main as cli

from ..small_runs import SmallRuns, as_before_its_end


@pytest.fixture
def unfinished(runs: SmallRuns, tmp_path: Path) -> Path:
    """The fine-tuning run as it was before its end."""
    return as_before_its_end(runs.finetuned, tmp_path / "run")


def test_show_reads_a_run_finished_or_not(
    runs: SmallRuns, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["weights", "show", str(runs.finetuned)]) == 0
    finished = capsys.readouterr().out
    assert cli.main(["weights", "show", str(unfinished)]) == 0
    half_way = capsys.readouterr().out
    assert "weights after step 2" in half_way and "classes     2 (left, right)" in half_way
    tensors = [line for line in finished.splitlines() if line.startswith("    ")]
    assert (
        sorted(tensors) == sorted(line for line in half_way.splitlines() if line.startswith("    "))
        and len(tensors) > 10
    )


def test_a_run_goes_through_every_layout_and_predicts_the_same(
    runs: SmallRuns, unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = next(Path(runs.videos).rglob("*.mp4"))
    expected = load(str(runs.finetuned), device="cpu").predict(clip)
    chain = [
        (str(unfinished), "a.pth", "released"),
        ("a.pth", "b", "transformers"),
        ("b", "c.safetensors", "ours"),
    ]
    for source, target, layout in chain:
        path = source if source == str(unfinished) else str(tmp_path / source)
        assert cli.main(["weights", "convert", path, str(tmp_path / target), "--layout", layout]) == 0
        assert load(str(tmp_path / target), device="cpu").predict(clip) == expected
    assert "wrote" in capsys.readouterr().out


def test_a_folder_without_weights_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["weights", "show", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the folder") and error.count("\n") == 1
