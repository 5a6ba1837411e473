import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from videomae2.engine.log import RunLog, read_failures, read_lines, read_metrics
from videomae2.engine.run import RunFolder
from videomae2.errors import UserError
from videomae2.records import Failure
from videomae2.settings import PretrainSettings

from .toys import RUN, toy_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create_or_resume(tmp_path, PretrainSettings())


def log_of(folder: RunFolder, start: int = 0) -> RunLog:
    return RunLog(folder, start, 100, name="toy", tensorboard=False)


def record(step: int, **others: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": 0.5,
        "loss": 1.0,
        "lr": 0.1,
        "clips_per_second": 3.0,
        "seconds_left": 75.0,
        **others,
    }


def test_one_object_a_line(folder: RunFolder) -> None:
    with log_of(folder) as log:
        log.train(record(10))
        log.train(record(20, loss=None))
        log.evaluation(20, 0.5, {"top1": 0.25})
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert lines == [
        record(10),
        record(20, loss=None),
        {"step": 20, "epoch": 0.5, "evaluation": {"top1": 0.25}},
    ]


def test_lines_after_the_resumed_step_and_torn_ones_are_dropped(folder: RunFolder) -> None:
    folder.metrics.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"step": 3')
    with log_of(folder, start=20):
        pass
    assert folder.metrics.read_text() == '{"step": 10}\n{"step": 20}\n'


def test_lines_that_no_run_writes_are_no_part_of_a_report(tmp_path: Path) -> None:
    good = [record(1), {"step": 1, "epoch": 0.5, "evaluation": {"top1": None}}, {"step": 1, "note": "back"}]
    bad: list[Any] = [
        None, 1, [], {}, {"step": "a"}, {"step": -1}, {"step": 10**400, "note": "a"}, record(2, loss="a"),
        record(2, clips_per_second=None), record(2, epoch=[]), {"step": 2, "evaluation": []},
        {"step": 2, "evaluation": {"top1": "a"}}, {"step": 2, "note": 3}, record(2, loss=1e301),
    ]  # fmt: skip
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xff\n{\n" + "\n".join(map(json.dumps, [*bad, *good])).encode())
    assert read_metrics(path) == good
    failure = {"row": 1, "path": "a", "reason": "b"}
    path.write_text(
        "\n".join(map(json.dumps, [failure, {"row": "1"}, {"row": 1, "path": [], "reason": "b"}]))
    )
    assert read_failures(path) == [failure]


def test_a_log_that_is_a_pipe_is_refused_and_not_waited_for(folder: RunFolder) -> None:
    os.mkfifo(folder.metrics)
    with log_of(folder) as log, pytest.raises(UserError, match=r"expected a file at .*metrics.jsonl, got"):
        log.train(record(10))


def test_a_failure_is_written_once_even_across_runs(folder: RunFolder) -> None:
    broken, other = Failure(3, "a.mp4", "no frames"), Failure(4, "b.mp4", "not a video")
    with log_of(folder) as log:
        log.failures([broken, broken])
        log.failures([broken])
    with log_of(folder, start=10) as log:
        log.failures([other, broken])
    assert [line["row"] for line in read_lines(folder.failures)] == [3, 4]


def test_without_a_terminal_a_line_says_how_far_it_is(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_of(folder) as log:
        log.train(record(10))
        log.train(record(11))
    said = capsys.readouterr()
    assert said.out == "" and said.err == "toy step 10/100 loss 1 lr 0.1 3.0 clips/s\n"


def test_on_a_terminal_there_is_a_bar_and_no_plain_line(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with log_of(folder) as log:
        log.train(record(10))
        log.advance(12)
        log.say("a note")
    assert (
        "12/100" in terminal.getvalue()
        and "3.0 clips/s" in terminal.getvalue()
        and "a note" in terminal.getvalue()
    )


def test_a_process_that_is_not_the_main_one_writes_nothing(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(folder, 0, 100, name="toy", tensorboard=True, quiet=True) as log:
        log.train(record(10))
        log.evaluation(10, 0.5, {"top1": 0.25})
        log.failures([Failure(3, "a.mp4", "no frames")])
        log.say("hidden")
    assert not folder.metrics.exists() and not folder.failures.exists() and capsys.readouterr().err == ""


def test_a_run_prints_its_plan_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_run(tmp_path, run=replace(RUN, evaluate_every=0))
    said = capsys.readouterr().err
    assert "optimizer steps: 14" in said and "batch of the learning-rate rule: 8" in said
    assert "# optimizer steps: 14" in (tmp_path / "config.toml").read_text()
    toy_run(tmp_path, run=replace(RUN, evaluate_every=0))
    assert "finished after step 14; nothing is left to do" in capsys.readouterr().err


def test_the_first_videos_that_cannot_be_read_are_said(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_of(folder) as log:
        log.failures([Failure(row, f"{row}.mp4", "no frames") for row in range(8)])
        log.failures([Failure(0, "0.mp4", "no frames"), Failure(9, "9.mp4", "no frames")])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "row 0, 0.mp4, could not be read and is replaced: no frames"
    assert len(said) == 6 and said[-1] == f"more videos could not be read: see {folder.failures}"
    assert len(read_lines(folder.failures)) == 9


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def said_of_slow_steps(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, seconds: float, cpu: bool) -> None:
    clock = Clock()
    monkeypatch.setattr("videomae2.engine.progress.time", clock)
    with RunLog(folder, 10, 100, name="toy", tensorboard=False, on_cpu=cpu) as log:
        for step in range(11, 40):
            clock.now += seconds
            log.advance(step)


def test_after_a_few_slow_steps_the_rest_is_foretold_once(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said_of_slow_steps(folder, monkeypatch, 20.0, cpu=True)
    said = [line for line in capsys.readouterr().err.splitlines() if "about" in line or "long" in line]
    assert said == [
        "about 29 minutes for the other 87 steps on this device (20 s each; evaluations and checkpoints not "
        "counted)"
    ]


def test_fast_steps_are_timed_for_longer(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said_of_slow_steps(folder, monkeypatch, 0.1, cpu=True)
    assert "less than a minute for the other 69 steps on this device" in capsys.readouterr().err


@pytest.mark.parametrize("cpu", [True, False])
def test_more_than_an_hour_on_a_cpu_comes_with_advice(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cpu: bool
) -> None:
    said_of_slow_steps(folder, monkeypatch, 100.0, cpu=cpu)
    said = capsys.readouterr().err
    assert "about 2.4 hours for the other 87 steps" in said
    assert ("that is long for a CPU: try --preset tiny" in said) == cpu


def test_without_tensorboard_a_run_says_so_once_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    toy_run(tmp_path, run=replace(RUN, tensorboard=True))
    said = capsys.readouterr().err
    assert said.count("TensorBoard is not installed") == 1 and "add --run.no_tensorboard" in said
    assert not (tmp_path / "events").exists() and (tmp_path / "finished.json").exists()


def test_a_start_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_run(tmp_path, evaluates=False, origin="from runs/pretrain")
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith("toy on the CPU (") and " fp32: 0.000409 million parameters, from runs/" in said
    assert said.endswith("; nothing is validated, as there is no --data.val")
