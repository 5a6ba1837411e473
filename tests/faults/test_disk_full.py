"""A full disk: the checkpoint before stays usable, nothing half-written is left, one line says what to do."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torch.distributed.checkpoint import filesystem

from videomae2.engine import checkpoint
from videomae2.errors import UserError

from ..engine.toys import RUN, Toy, same_tensors, toy_run

SETTINGS: dict[str, Any] = {"run": replace(RUN, checkpoint_every=2, evaluate_every=0)}


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes that torch writes into a checkpoint go to /dev/full, where the kernel refuses every write."""

    @contextlib.contextmanager
    def create_stream(_: object, path: Path, mode: str) -> Iterator[IO[Any]]:
        target = "/dev/full" if "w" in mode and self_fills(path) else path
        with Path(target).open(mode) as stream:
            yield stream

    full_from = {"step": 10**9}

    def self_fills(path: Path) -> bool:
        return int(Path(path).parent.name.rsplit("-")[-1]) >= full_from["step"]

    monkeypatch.setattr(filesystem.FileSystem, "create_stream", create_stream)
    return full_from


def test_the_checkpoint_before_stays_usable_and_the_run_goes_on(
    tmp_path: Path, full_disk: dict[str, int]
) -> None:
    toy_run(tmp_path / "whole", **SETTINGS)
    full_disk["step"] = 8
    with pytest.raises(UserError) as caught:
        toy_run(tmp_path / "run", **SETTINGS)
    message = str(caught.value)
    assert "step-8 could not be written: the disk is full" in message and "\n" not in message
    assert "step-6 before it is untouched; make room and run the same command to resume" in message
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"step-4", "step-6"}
    assert checkpoint.load_model_state(tmp_path / "run")
    full_disk["step"] = 10**9
    _, result = toy_run(tmp_path / "run", **SETTINGS)
    assert result.resumed_from == 6 and same_tensors(tmp_path / "whole", tmp_path / "run")


def test_full_at_the_first_checkpoint(tmp_path: Path, full_disk: dict[str, int]) -> None:
    full_disk["step"] = 0
    with pytest.raises(UserError, match=r"there was none before it"):
        toy_run(tmp_path, **SETTINGS)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_full_when_the_small_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"model.weight": torch.ones(3)}
    checkpoint.save_checkpoint(tmp_path, tensors, {}, 1)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", refuse)
    with pytest.raises(UserError, match=r"step-2 could not be written: the disk is full"):
        checkpoint.save_checkpoint(tmp_path, tensors, {}, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        UserError,
        match=r"step-2 could not be written: permission denied; there was none .* let it be written and run",
    ):
        checkpoint.save_checkpoint(tmp_path, {"model.weight": torch.ones(3)}, {}, 2)


def test_a_full_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def open_full(self: Path, *arguments: Any, **others: Any) -> Any:
        return real(Path("/dev/full") if self.name == "metrics.jsonl" else self, *arguments, **others)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(UserError, match=r"metrics.jsonl could not be written: the disk is full .*make room"):
        toy_run(tmp_path, **SETTINGS)


def test_a_mistake_of_ours_is_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: Any) -> None:
        raise TypeError("a stream was expected")

    monkeypatch.setattr(filesystem.FileSystem, "create_stream", mistaken)
    with pytest.raises(RuntimeError, match=r"could not be written: TypeError: a stream was expected"):
        checkpoint.save_checkpoint(tmp_path, {"model.weight": torch.ones(3)}, {}, 1)
    assert list(tmp_path.iterdir()) == []


def test_on_a_file_system_that_is_really_full(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs the rights to do so")
    try:
        out = small / "run"
        with pytest.raises(UserError, match=r"the disk is full .*untouched; make room"):
            toy_run(out, run=replace(RUN, checkpoint_every=2, keep_last=99), task=Toy(width=150))
        newest = checkpoint.find(out)
        assert newest is not None
        assert checkpoint.load_model_state(newest)
        assert not any(path.name.startswith(".") for path in (out / "checkpoints").iterdir())
        for old in checkpoint.checkpoints(out / "checkpoints")[:-1]:
            shutil.rmtree(old)
        step = checkpoint.step_of(newest)
        _, result = toy_run(out, run=replace(RUN, checkpoint_every=20, keep_last=2), task=Toy(width=150))
        assert result.resumed_from == step and result.step == 14
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
