"""torch's threads wait passively where this package loads torch; the environment stays as it was."""

import os
import subprocess
import sys

import pytest

ASKED = "import os, videomae2 as vm; vm.load; print(os.environ.get('OMP_WAIT_POLICY'))"


def loaded(**variables: str) -> tuple[str, str]:
    """What the environment says afterwards, and what OpenMP says it read when torch was loaded."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", ASKED],
        env=environment | {"OMP_DISPLAY_ENV": "TRUE"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this torch has an OpenMP that does not say what it read")
    return done.stdout.strip(), done.stderr


def test_threads_wait_passively_and_the_environment_stays() -> None:
    after, read = loaded()
    assert after == "None"
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in read


def test_whoever_has_chosen_keeps_the_choice() -> None:
    after, read = loaded(OMP_WAIT_POLICY="active")
    assert after == "active"
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in read
