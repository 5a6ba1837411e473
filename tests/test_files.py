"""A file is replaced in one step, or stays as it was."""

import json
import math
import os
from pathlib import Path

import pytest

from videomae2.files import json_text, replacing, write_atomically


def test_the_new_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent.parent == path.parent  # on the same file system
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power cut after the rename can leave an empty file under the final name."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        written = Path(f"/proc/self/fd/{descriptor}").read_text()
        synced.append(f"{written} while {path.read_text()}")

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, "né")
    assert synced == ["né while old"]
    assert path.read_bytes() == "né".encode()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def test_json_has_no_bare_nan() -> None:
    value = {
        "loss": math.nan,
        "all": [1.0, -math.inf, (2, math.inf)],
        "name": "été",
        "top1": 0.5,
        "none": None,
    }
    text = json_text(value)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert json.loads(text, parse_constant=refuse) == {
        "loss": None, "all": [1.0, None, [2, None]], "name": "été", "top1": 0.5, "none": None,
    }  # fmt: skip
    assert "été" in text
    assert json_text([1], 2) == "[\n  1\n]"
    assert json.loads(json_text(["caf\udce9", math.nan]).encode()) == ["caf\udce9", None]


def test_every_writer_of_json_refuses_a_bare_nan() -> None:
    source = Path(__file__).parents[1] / "src"
    calls = [
        (path.name, call)
        for path in source.rglob("*.py")
        for call in path.read_text(encoding="utf-8").split("json.dump")[1:]
    ]
    assert [name for name, call in calls if "allow_nan=False" not in call[:200]] == []
