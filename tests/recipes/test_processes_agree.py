"""What one of several processes meets all know: mistakes, broken videos, signals; they evaluate as one."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import videomae2 as vm
from videomae2.cli.main import main
from videomae2.config import to_toml
from videomae2.data.rows import read_pictures
from videomae2.engine import parallel
from videomae2.engine.log import read_lines
from videomae2.errors import UserError
from videomae2.heads.classify import gather_scores
from videomae2.metrics.accuracy import ViewScores

from ..launches import Ended, command, in_processes, slurm_environment_of
from ..small_runs import SmallRuns, pretrain_settings

EVALUATE = ["--device", "cpu", "--precision", "fp32", "--data.workers", "0", "--data.stride", "1"]


def one_line(ended: list[Ended], code: int = 2) -> str:
    """What rank 0 said; all ended with this code, and the others said nothing."""
    assert [each.code for each in ended] == [code] * len(ended), ended[0].err
    assert len(ended[0].err.splitlines()) == 1, ended[0].err
    assert all(each.err == each.out == "" for each in ended[1:])
    return ended[0].err


def pretraining(runs: SmallRuns, tmp_path: Path, *options: str) -> list[str]:
    (tmp_path / "page.toml").write_text(to_toml(pretrain_settings(runs.videos, tmp_path / "run")))
    return ["pretrain", str(tmp_path / "page.toml"), "--optim.batch_size", "1", *options]


def test_evaluations_of_one_two_and_three_processes_have_the_same_files(
    runs: SmallRuns, tmp_path: Path
) -> None:
    """Seven videos, one of them broken, in batches of two: shares are uneven, under Slurm too."""
    videos = tmp_path / "videos"
    shutil.copytree(runs.videos, videos)
    (videos / "left" / "broken.mp4").write_bytes(b"no video")
    words = ["evaluate", "--weights", str(runs.finetuned), "--data.val", str(videos), *EVALUATE]
    words += ["--batch_size", "2", "--data.test_clips", "2", "--data.test_crops", "1", "--out"]
    assert main([*words, str(tmp_path / "out1")]) == 0
    environments: dict[int, dict[str, Any]] = {2: {}, 3: {"environment": slurm_environment_of}}
    for processes, others in environments.items():
        out = tmp_path / f"out{processes}"
        ended = command(processes, [*words, str(out)], tmp_path / f"said{processes}", **others)
        assert [each.code for each in ended] == [0] * processes, ended[0].err
        assert ended[0].out.splitlines()[-1].startswith("top-1") and ended[1].out == ""
        for file in ("summary.json", "per_class.csv", "confusion.csv", "scores.jsonl"):
            assert (out / file).read_bytes() == (tmp_path / "out1" / file).read_bytes(), file


def test_a_mistake_is_told_once_and_ends_all(runs: SmallRuns, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    said = one_line(command(2, pretraining(runs, tmp_path), tmp_path / "said"))
    assert "is not empty and holds no run" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]
    assert "did you mean" in one_line(command(2, ["pretrain", "--optim.bach_size", "1"], tmp_path / "said2"))


def test_a_fault_on_one_process_ends_all_with_its_words(runs: SmallRuns, tmp_path: Path) -> None:
    """The loader of rank 1 fails at its second video; the others would wait for its gradients."""
    words = pretraining(runs, tmp_path, "--optim.length", "6")

    def work(rank: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            if rank == 1:
                patch.setattr("videomae2.data.clips.read_pictures", failing_at(3))
            return main(words)

    ended = in_processes(2, work, tmp_path / "said")
    assert [each.code for each in ended] == [2, 2]
    assert ended[0].err.splitlines()[-1] == "error: the disk of rank 1 is gone" and ended[1].err == ""


def failing_at(call: int) -> Any:
    calls = iter(range(1, 1000))

    def read(*given: Any, **more: Any) -> Any:
        if next(calls) == call:
            raise UserError("the disk of rank 1 is gone")
        return read_pictures(*given, **more)

    return read


def test_broken_videos_of_all_processes_are_written_and_counted(runs: SmallRuns, tmp_path: Path) -> None:
    """Three of nine videos are broken, whoever reads them: too many for 20 %, not for 40 %."""
    videos = tmp_path / "videos"
    shutil.copytree(runs.videos, videos)
    for number in range(3):
        (videos / "left" / f"broken{number}.mp4").write_bytes(b"no video")
    words = pretraining(runs, tmp_path, "--data.train", str(videos), "--data.val", "", "--optim.length", "4")
    allowed = command(2, [*words, "--data.max_broken", "0.4"], tmp_path / "said")
    assert [each.code for each in allowed] == [0, 0], allowed[0].err
    named = {Path(line["path"]).name for line in read_lines(tmp_path / "run" / "failures.jsonl")}
    assert named == {"broken0.mp4", "broken1.mp4", "broken2.mp4"}
    strict = command(
        2, [*words, "--data.max_broken", "0.2", "--out", str(tmp_path / "b")], tmp_path / "said2"
    )
    assert [each.code for each in strict] == [2, 2]
    assert "videos asked for in this epoch could not be read" in strict[0].err.splitlines()[-1]
    assert read_lines(tmp_path / "b" / "failures.jsonl")


def test_a_signal_to_one_process_stops_all_after_the_same_step(runs: SmallRuns, tmp_path: Path) -> None:
    """It comes while rank 1 reads its second video, the third that is read with the trial before the run."""
    words = pretraining(runs, tmp_path, "--optim.length", "6", "--run.log_every", "100")

    def work(rank: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            if rank == 1:
                patch.setattr("videomae2.data.clips.read_pictures", stopping_at(3))
            return main(words)

    ended = in_processes(2, work, tmp_path / "said")
    assert [each.code for each in ended] == [143, 143], ended[0].err
    assert "stopped after step 2 of 6, saved in" in ended[0].err.splitlines()[-1]
    resumed = command(2, words, tmp_path / "said2")
    assert [each.code for each in resumed] == [0, 0] and "after step 2 of 6" in resumed[0].err


def stopping_at(call: int) -> Any:
    calls = iter(range(1, 1000))

    def read(*given: Any, **more: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return read_pictures(*given, **more)

    return read


def test_a_group_that_a_program_has_begun_is_joined(runs: SmallRuns, tmp_path: Path) -> None:
    settings = pretrain_settings(runs.videos, tmp_path / "run")

    def work(rank: int) -> None:
        store = dist.FileStore(str(tmp_path / "store"), 2)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
        assert vm.pretrain(settings) == tmp_path / "run"
        assert dist.is_initialized(), "it is the program's to end"

    ended = in_processes(2, work, tmp_path / "said", environment=lambda *_: {})
    assert [each.code for each in ended] == [0, 0], ended[1].err
    assert "one step: 4 videos" in (tmp_path / "run" / "config.toml").read_text()


def test_a_view_that_two_ranks_scored_counts_once(tmp_path: Path) -> None:
    """As padding samplers give the first rows to several ranks; and two views of one row to two."""
    labels, generator = torch.arange(9) % 3, torch.Generator().manual_seed(0)
    logits = torch.randn(18, 3, generator=generator)
    row, view = torch.arange(18) // 2, torch.arange(18) % 2
    whole = ViewScores(labels, 3)
    whole.update(logits, row, view)

    def work(rank: int) -> None:
        part = ViewScores(labels, 3)
        mine = ((row < 8) & (row % 3 == rank)) | (row == 0) | ((row == 8) & (view == rank))
        part.update(logits[mine], row[mine], view[mine])
        from videomae2.engine import launch

        launch.join("cpu")
        merged = gather_scores(part)
        assert torch.equal(merged.sums, whole.sums) and torch.equal(merged.seen, whole.seen)
        again = ViewScores(labels, 3)
        again.update(
            logits[:2] if rank else logits[1:2],
            row[:2] if rank else row[1:2],
            view[:2] if rank else view[1:2],
        )
        with pytest.raises(UserError, match=r"expected each view once, got views \[1\] of row 0"):
            gather_scores(again)
        assert parallel.summed([rank, 1]) == [3, 3] and parallel.greatest([rank]) == [2]

    ended = in_processes(3, work, tmp_path / "said")
    assert [each.code for each in ended] == [0, 0, 0], [each.err for each in ended]
