"""One quickstart, shrunk to seconds, that the tests of this folder look at: every stage runs for real."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from videomae2.quickstart import plan
from videomae2.quickstart.stages import run_quickstart

SMALL = {
    "UNLABELLED": 16,
    "LABELLED": 32,
    "HELD_OUT": 8,
    "PRETRAINING_STEPS": 3,
    "FINETUNING_STEPS": 2,
}


@pytest.fixture(scope="session")
def small() -> Iterator[None]:
    """A few videos and a few steps of the same plan."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(plan, name, value)
        yield


@pytest.fixture(scope="session")
def quickstart(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """The folder of a finished quickstart of seed 0."""
    out = tmp_path_factory.mktemp("quickstart") / "out"
    run_quickstart(out, 0)
    return out
