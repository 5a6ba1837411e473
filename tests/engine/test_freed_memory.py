"""Freed memory stays with the process, unless its user has other wishes."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from videomae2.engine.device import keep_freed_memory
kept = keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    first = [torch.ones(12_000_000) for _ in range(3)]  # 48 MB each: above what glibc keeps by itself
    second = [tensor + 1 for tensor in first]
for _ in range(8): step()  # the first steps find out what a step needs
before = faults()
for _ in range(4): step()
print(kept, faults() - before)
"""


def measured(**variables: str) -> tuple[str, int]:
    """Whether memory is kept, and how many pages four further steps had to be given by the system."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")
    } | variables
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again() -> None:
    kept, faults = measured()
    assert kept == "True"
    assert measured(MALLOC_TOP_PAD_="131072")[1] > 4 * faults  # left alone, every tensor is paged in anew


def test_the_users_own_settings_stay() -> None:
    assert measured(MALLOC_ARENA_MAX="2")[0] == "False"
