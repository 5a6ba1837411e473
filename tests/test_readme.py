"""The README's commands exist and take the time it says; its numbers lie in benchmarks/results/."""

import json
import re
from pathlib import Path

import pytest
from newcomer import commands

from videomae2.cli.runs import commands as taking_settings
from videomae2.config import load_settings
from videomae2.quickstart import plan

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def test_the_two_commands_are_what_ci_calls() -> None:
    called = (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("quickstart", "test"):
        assert f"make {target}" in README
        assert f"\n{target}: setup\n" in makefile
    assert "make test" in called
    assert "make check" in called


def test_the_newcomers_commands_exist() -> None:
    """What `benchmarks/newcomer.py` runs: an environment, the package, and four commands."""
    lines = commands(README)
    assert lines[0].startswith("python3 -m venv .venv") and lines[1] == "pip install ."
    assert [line.split()[:2] for line in lines[2:]] == [
        ["videomae2", word] for word in ("data", "pretrain", "finetune", "evaluate")
    ]
    assert "--out runs/evaluate" in lines[-1]  # where newcomer.py finds the accuracy


def test_minutes_beside_a_newcomers_command_are_those_it_took() -> None:
    told = re.findall(r"^(\S.*?) +# (\d+) min$", README, re.MULTILINE)
    assert bool(told) == (RESULTS / "newcomer.json").is_file()
    for command, minutes in told:
        result = json.loads((RESULTS / "newcomer.json").read_text())
        run = {step["command"]: step["minutes"] for step in result["commands"]}
        assert round(run[command]) == int(minutes) and result["minutes"] <= 15, command


def test_commands_with_settings_are_read_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    lines = re.findall(r"^videomae2 (pretrain|finetune|evaluate) ([^#\n]*)", shell, re.MULTILINE)
    assert len(lines) >= 5
    for command, words in lines:
        load_settings(taking_settings()[command].settings, None, words.split())


def test_what_is_said_of_the_quickstart_is_what_it_has() -> None:
    told = re.search(r"with ([\d,]+) steps of pre-training; it has ([\d,]+) now", README)
    recorded = json.loads((RESULTS / "quickstart_seeds.json").read_text())["settings"]["pretrain"][
        "optim.length"
    ]
    # Told exactly as long as the recorded numbers are of other settings than those that run now.
    assert bool(told) == (recorded != plan.PRETRAINING_STEPS)
    if told:
        steps = [int(each.replace(",", "")) for each in told.groups()]
        assert steps == [recorded, plan.PRETRAINING_STEPS]
    assert f"an ideal observer of unordered frames {100 * plan.UNORDERED:.0f} %" in README


def test_the_picture_is_there_and_small() -> None:
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert (ROOT / picture).stat().st_size < 1_500_000


def test_every_measured_number_is_a_result() -> None:
    """Each row of the table names its file, and every number shown is a value of that file, rounded."""
    table = README.split("## What is measured", 1)[1]
    rows = [line for line in table.splitlines() if line.startswith("|") and "results/" in line]
    assert rows
    for row in rows:
        name = re.search(r"results/(\w+\.json)", row)[1]  # type: ignore[index]
        values = list(_numbers(json.loads((RESULTS / name).read_text())))
        result = row.split("|")[2]
        shown = re.findall(r"(\d+\.(\d+))( %)?", result)
        assert shown, row
        for number, decimals, percent in shown:
            scale = 100 if percent else 1
            assert any(f"{scale * value:.{len(decimals)}f}" == number for value in values), (
                f"{number} is not in {name}: {row}"
            )


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in _numbers(each)]
    if isinstance(value, list):
        return [number for each in value for number in _numbers(each)]
    return [abs(float(value))] if isinstance(value, int | float) and not isinstance(value, bool) else []
