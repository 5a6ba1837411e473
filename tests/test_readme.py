"""The README tells of every room, and quotes only numbers that lie in benchmarks/results/."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_rooms_are_those_of_the_package() -> None:
    """README tells of the rooms; docs/architecture.md, which it links to, of every file."""
    tree = README.split("```text", 1)[1].split("```", 1)[0]
    package = ROOT / "src" / "videomae2"
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^  (\w+)/ +\S", tree, re.MULTILINE)) == rooms
    assert "(docs/architecture.md)" in README


def test_the_two_commands_are_what_ci_calls() -> None:
    called = (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("quickstart", "test"):
        assert f"make {target}" in README
        assert f"\n{target}: setup\n" in makefile
    assert "make test" in called
    assert "make check" in called


def test_every_measured_number_is_a_result() -> None:
    """Each row of the table names its file, and every number shown is a value of that file, rounded."""
    table = README.split("## What is measured", 1)[1]
    rows = [line for line in table.splitlines() if line.startswith("|") and "results/" in line]
    assert rows
    for row in rows:
        name = re.search(r"results/(\w+\.json)", row)[1]  # type: ignore[index]
        values = list(_numbers(json.loads((ROOT / "benchmarks" / "results" / name).read_text())))
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
