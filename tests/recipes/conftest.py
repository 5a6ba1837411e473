"""One small pre-training and fine-tuning run for all tests of recipes."""

import pytest

from ..small_runs import SmallRuns, make_runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> SmallRuns:
    """A finished run of each kind, and the videos they saw. Do not write into them."""
    return make_runs(tmp_path_factory.mktemp("runs"))
