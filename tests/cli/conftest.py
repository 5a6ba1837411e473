"""A command line run in this process."""

from collections.abc import Callable

import pytest

from videomae2.cli import main as cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command line: (exit code, stdout, stderr)."""

    def main(*tokens: str) -> tuple[int, str, str]:
        code = cli.main(tokens)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return main
