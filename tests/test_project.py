"""The files around the package agree: license, citation, hooks, bounds, and the rule for GPU tests."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_license_is_the_one_that_is_declared() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "Copyright 2026 the videomae2 authors" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_citation_names_this_version_and_the_paper() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == PROJECT["version"]  # type: ignore[index]
    assert re.search(r"^license: (.*)$", text, re.MULTILINE)[1] == PROJECT["license"]  # type: ignore[index]
    assert "arXiv:2303.16727" in text
    assert PROJECT["urls"]["Paper"] in text


def test_the_changelog_tells_of_what_is_not_released() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_run_what_make_check_runs() -> None:
    hooks = re.findall(
        r"^ +entry: \.venv/bin/(.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE
    )
    recipe = (ROOT / "Makefile").read_text().split("\ncheck: setup\n", 1)[1].split("\n\n", 1)[0]
    checks = [line.strip().removeprefix("$(BIN)/") for line in recipe.splitlines()]
    folders = " src tests benchmarks"
    assert hooks == [check.removesuffix(folders) for check in checks]
    assert (
        re.search(r"^ +- repo: (?!local)", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
        is None
    )


def test_torch_has_an_upper_bound_above_the_pinned_version() -> None:
    bound = next(entry for entry in PROJECT["dependencies"] if entry.startswith("torch"))
    low, high = re.fullmatch(r"torch>=(\d+\.\d+),<(\d+\.\d+)", bound).groups()  # type: ignore[union-attr]
    pinned = re.search(r"torch==(\d+\.\d+)", (ROOT / "constraints" / "cpu.txt").read_text())
    assert pinned is not None

    def number(version: str) -> tuple[int, ...]:
        return tuple(map(int, version.split(".")))

    assert number(low) <= number(pinned[1]) < number(high)


def test_a_test_that_needs_a_gpu_is_marked() -> None:
    """A skip of its own would pass silently on a machine that was rented for it."""
    for path in TESTS.rglob("test_*.py"):
        if path != Path(__file__):
            assert not re.search(r"skipif\(.*cuda", path.read_text()), path


def test_a_required_gpu_that_is_missing_is_a_failure() -> None:
    environment = os.environ | {"VIDEOMAE2_REQUIRE_GPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_masking.py"]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stdout
    assert "VIDEOMAE2_REQUIRE_GPU=1, but torch sees no CUDA device" in found.stdout
    assert "skipped" not in found.stdout


@pytest.mark.gpu
def test_a_gpu_test_runs_where_there_is_one() -> None:
    assert torch.cuda.is_available()
