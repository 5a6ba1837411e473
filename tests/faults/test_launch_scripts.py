"""The scripts of examples/: torchrun, where a killed process costs only its steps; Slurm, with a requeue.

Slurm itself is not here: a stand-in for `srun` starts processes with what it sets.
"""

import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from videomae2.config import to_toml
from videomae2.engine import checkpoint
from videomae2.engine.log import read_lines

from ..launches import command, free_port
from ..small_runs import SmallRuns, pretrain_settings

ROOT = Path(__file__).parents[2]
MARK = "VIDEOMAE2_TEST_MARK"
SRUN = """
import os, subprocess, sys
assert sys.argv[1] == "--kill-on-bad-exit=1"
names = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_ID": "0"}
ranks = [{**os.environ, **names, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in range(2)]
started = [subprocess.Popen(sys.argv[2:], env=each) for each in ranks]
sys.exit(max(each.wait() for each in started))
"""


@pytest.fixture
def words(runs: SmallRuns, tmp_path: Path) -> list[str]:
    """A run of 30 steps with a checkpoint after every second one, on two processes."""
    (tmp_path / "page.toml").write_text(to_toml(pretrain_settings(runs.videos, tmp_path / "run")))
    options = {"optim.batch_size": 1, "optim.length": 30, "run.checkpoint_every": 2, "data.val": ""}
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["pretrain", str(tmp_path / "page.toml"), *given]


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def start(script: str, words: list[str], folder: Path, **environment: str) -> "subprocess.Popen[str]":
    """The script of examples/, with the programs of `folder`/bin before those of this environment."""
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [str(ROOT / "examples" / script), *words],
        env={
            **os.environ,
            "PATH": path,
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(mark: str) -> Iterator[tuple[int, str]]:
    """Process id and environment of the processes that were started with this mark."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            text = path.read_text(errors="replace")
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue
        if f"{MARK}={mark}" in text:
            yield int(path.parent.name), text


def signal_rank(variable: str, mark: str, number: int, run: Path) -> None:
    """Send a signal to the process with this variable, after its first checkpoint."""
    deadline = time.monotonic() + 300
    while not checkpoint.checkpoints(run / "checkpoints"):
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)
    (found,) = (pid for pid, text in processes_of(mark) if f"\0{variable}\0" in text)
    os.kill(found, number)


def test_a_killed_process_costs_only_its_steps(words: list[str], tmp_path: Path) -> None:
    """Torchrun starts both again without a hand, and the weights are those of a quiet run, bit for bit."""
    mark, run = uuid.uuid4().hex, tmp_path / "run"
    others = {"PROCESSES": "2", "RESTARTS": "2", "PORT": str(free_port()), MARK: mark}
    process = start("torchrun.sh", words, tmp_path, **others)
    signal_rank("RANK=1", mark, signal.SIGKILL, run)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-3000:]
    assert out == f"{run}\n" and err.count("resuming ") == 1
    quiet = command(2, [*words, "--out", str(tmp_path / "quiet")], tmp_path / "said")
    assert [each.code for each in quiet] == [0, 0], quiet[0].err
    steps = [line["step"] for line in read_lines(run / "metrics.jsonl")]
    assert steps == [line["step"] for line in read_lines(tmp_path / "quiet" / "metrics.jsonl")]
    ours, theirs = (load_file(each / "model.safetensors") for each in (run, tmp_path / "quiet"))
    assert all(ours[name].equal(value) for name, value in theirs.items())


def test_slurm_requeues_a_job_whose_time_is_up(words: list[str], tmp_path: Path) -> None:
    mark, run = uuid.uuid4().hex, tmp_path / "run"
    program(tmp_path / "bin" / "srun", f"#!{sys.executable}\n{SRUN}")
    program(tmp_path / "bin" / "scontrol", f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol\n')
    job = {"SLURM_JOB_ID": str(free_port()), MARK: mark}
    process = start("slurm.sh", words, tmp_path, **job)
    signal_rank("SLURM_PROCID=1", mark, signal.SIGTERM, run)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 143, err[-3000:]
    assert "saved in" in err.splitlines()[-1]
    assert (tmp_path / "scontrol").read_text() == f"requeue {job['SLURM_JOB_ID']}\n"
    again = start("slurm.sh", words, tmp_path, **job)
    out, err = again.communicate(timeout=400)
    assert again.returncode == 0 and out == f"{run}\n" and "resuming" in err, err[-3000:]
