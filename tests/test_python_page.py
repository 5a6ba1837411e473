"""The examples of docs/python-api.md run, in their order, and print what the page says."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from .small_runs import write_classes, write_video

PAGE = (Path(__file__).parents[1] / "docs" / "python-api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", PAGE, re.DOTALL)


def test_every_example_prints_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "videos")
    write_video(tmp_path / "clip.mp4", 2, num_frames=20)
    names: dict[str, Any] = {}
    assert len(EXAMPLES) >= 10
    for code, expected in EXAMPLES:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/python-api.md", "exec"), names)
        assert printed.getvalue() == expected, code
