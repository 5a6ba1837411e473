"""A few dozen bad inputs of each kind, drawn from a seed, through the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_bad_inputs_of_every_kind_end_in_one_line_or_are_read(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("the cases are forked from one process, which this system cannot")
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--work", str(tmp_path), "--seed", "7"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--share", "0.006"], env=environment, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert done.returncode == 0, [line for line in lines if line["faults"]]
    assert {line["case"].split(":")[0] for line in lines} == {
        "lists", "pages", "lines", "weights", "runs", "videos",
    }  # fmt: skip
    assert len(lines) >= 70 and {line["code"] for line in lines} == {0, 2}
