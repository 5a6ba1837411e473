"""Shared fixtures: the optional folder of real data, and one thread per process so that test workers do not
fight.
"""

import os
from pathlib import Path

import pytest
import torch

from .small_runs import SmallRuns, make_runs

torch.set_num_threads(1)


def _data_folder() -> Path:
    return Path(os.environ.get("VIDEOMAE2_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos and evaluators' answers; tests that want it skip where it is absent."""
    folder = _data_folder()
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set VIDEOMAE2_DATA to its folder to run this test")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of outputs recorded from the released code."""
    return Path(__file__).parent / "parity" / "data"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    """A finished run of each kind, and the videos they saw. Do not write into them."""
    return make_runs(tmp_path_factory.mktemp("runs"))
