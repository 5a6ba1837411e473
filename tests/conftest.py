"""Shared fixtures: the optional folder of real data; one thread a process, so that test workers do not fight.

Tests marked `gpu` are skipped where torch sees no CUDA device, and fail there under VIDEOMAE2_REQUIRE_GPU=1.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

from .small_runs import SmallRuns, make_runs

torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `gpu` where there is no GPU; fail it where the caller promised one.

    A machine that is rented for these tests must not pass because its driver is broken.
    """
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("VIDEOMAE2_REQUIRE_GPU") == "1":
        pytest.fail("VIDEOMAE2_REQUIRE_GPU=1, but torch sees no CUDA device", pytrace=False)
    pytest.skip("needs a CUDA device; VIDEOMAE2_REQUIRE_GPU=1 makes this a failure")


def _data_folder() -> Path:
    return Path(os.environ.get("VIDEOMAE2_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos and evaluators' answers; tests that want it skip where it is absent."""
    folder = _data_folder()
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set VIDEOMAE2_DATA to its folder to run this test")
    return folder


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the shape checker of the test run: records are on their own, as in a user's program."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of outputs recorded from the released code."""
    return Path(__file__).parent / "parity" / "data"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    """A finished run of each kind, and the videos they saw. Do not write into them."""
    return make_runs(tmp_path_factory.mktemp("runs"))
