"""A few of the kills of `benchmarks/chaos.py`: of one loader process, while saving, while evaluating."""

import random
from pathlib import Path

from chaos import differences, prepare, run_with_kills


def test_killed_in_every_way_and_started_again(tmp_path: Path) -> None:
    line, seconds = prepare(tmp_path, warm=False)
    out = tmp_path / "run"
    kinds = ["worker", "save", "evaluation"]
    killed, faults = run_with_kills(
        [*line, "--out", str(out)], tmp_path / "told.txt", kinds, random.Random(1), seconds / 3
    )
    assert killed == kinds and faults == []
    assert differences(tmp_path / "quiet", out) == []
