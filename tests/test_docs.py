"""The examples in docs/python-api.md run, in order, and print what the page says."""

import contextlib
import io
import re
from pathlib import Path

from .small_runs import write_classes, write_video

PAGE = Path(__file__).parents[1] / "docs" / "python-api.md"


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every fenced block, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_every_example_runs_and_prints_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "videos")
    write_video(tmp_path / "clip.mp4", 2)
    names: dict = {}
    printed = None
    for language, text in blocks():
        if language == "python":
            stream = io.StringIO()
            with contextlib.redirect_stdout(stream):
                exec(compile(text, str(PAGE), "exec"), names)  # the page is ours
            printed = stream.getvalue()
        elif language == "text":
            assert printed == text
    assert (tmp_path / "runs" / "finetune" / "report.html").is_file()
    assert (tmp_path / "runs" / "evaluation" / "report.html").is_file()


def test_the_page_names_every_public_name():
    import videomae2

    page = PAGE.read_text(encoding="utf-8")
    missing = [name for name in videomae2.__all__ if name not in page]
    assert missing in ([], ["EvaluateSettings", "FinetuneSettings", "PretrainSettings"])
