"""One quickstart, shrunk to seconds, that the tests of this folder look at: every stage runs for real."""

from pathlib import Path

import pytest

from videomae2.quickstart import plan
from videomae2.quickstart.stages import run_quickstart


def shrink(patch: pytest.MonkeyPatch) -> None:
    """A few videos and a few steps of the same plan."""
    for name, value in (
        ("UNLABELLED", 16),
        ("LABELLED", 32),
        ("HELD_OUT", 8),
        ("PRETRAINING_STEPS", 3),
        ("FINETUNING_STEPS", 2),
    ):
        patch.setattr(plan, name, value)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small plan, for the tests of this folder alone."""
    shrink(monkeypatch)


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished quickstart of seed 0."""
    out = tmp_path_factory.mktemp("quickstart") / "out"
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        run_quickstart(out, 0)
    return out
