import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from videomae2.engine.run import RunFolder
from videomae2.errors import UserError
from videomae2.files import write_atomically
from videomae2.settings import (
    DataSettings,
    FinetuneSettings,
    OptimSettings,
    PretrainData,
    PretrainSettings,
    RunSettings,
)

SETTINGS = PretrainSettings()


def test_a_new_run_writes_the_page_that_replays_it(tmp_path: Path) -> None:
    from videomae2.config import from_toml

    settings = replace(SETTINGS, optim=OptimSettings(base_lr=3e-4, length=100))
    folder = RunFolder.create_or_resume(tmp_path / "a" / "b", settings)
    folder.write_config("optimizer steps: 100")
    text = folder.config.read_text()
    assert "# optimizer steps: 100" in text and from_toml(PretrainSettings, text) == settings
    assert folder.finished is None


def test_no_folder_given() -> None:
    with pytest.raises(UserError, match="name one with --out"):
        RunFolder.create_or_resume("", SETTINGS)


def test_the_same_settings_resume_and_harmless_ones_may_differ(tmp_path: Path) -> None:
    RunFolder.create_or_resume(tmp_path, SETTINGS)
    harmless = replace(
        SETTINGS, data=replace(SETTINGS.data, workers=7), run=replace(SETTINGS.run, out="x", log_every=1)
    )
    RunFolder.create_or_resume(tmp_path, harmless)
    assert "workers = 7" in (tmp_path / "config.toml").read_text()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(SETTINGS, optim=OptimSettings(base_lr=1.0)), "expected optim.base_lr 0.001, got 1.0"),
        (replace(SETTINGS, run=RunSettings(seed=3)), "expected run.seed 0, got 3"),
        (
            replace(SETTINGS, run=RunSettings(precision="fp32")),
            "expected run.precision 'bf16', got 'fp32'",
        ),
        (replace(SETTINGS, data=PretrainData(**vars(DataSettings()))), "and . more"),
        (FinetuneSettings(), "a run of pretrain, not of finetune"),
    ],
)
def test_another_run_is_refused_and_untouched(tmp_path: Path, other: PretrainSettings, named: str) -> None:
    RunFolder.create_or_resume(tmp_path, SETTINGS)
    before = (tmp_path / "config.toml").read_text()
    with pytest.raises(UserError, match=named) as caught:
        RunFolder.create_or_resume(tmp_path, other)
    assert "give another --out" in str(caught.value)
    assert (tmp_path / "config.toml").read_text() == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(UserError, match="not empty and holds no run"):
        RunFolder.create_or_resume(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]
    with pytest.raises(UserError, match=r"expected a folder for the run, got the file .*holiday.mp4"):
        RunFolder.create_or_resume(tmp_path / "holiday.mp4", SETTINGS)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not be written: not a directory; choose another place"):
        RunFolder.create_or_resume(tmp_path / "file" / "run", SETTINGS)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    folder = RunFolder.create_or_resume(tmp_path, SETTINGS)
    assert folder.finished is None
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()

    def intrude() -> None:
        try:
            RunFolder.create_or_resume(tmp_path, SETTINGS)
            answers.put("let in")
        except UserError as error:
            answers.put(str(error))

    process = fork.Process(target=intrude)
    process.start()
    assert "another process is training in" in answers.get(timeout=20)
    process.join()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page"
    write_atomically(path, "old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match=r"the disk is full .*; the one that was there is untouched"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["page"]


def test_finishing_is_remembered(tmp_path: Path) -> None:
    folder = RunFolder.create_or_resume(tmp_path, SETTINGS)
    summary = {"step": 3, "metrics": {}, "best": None}
    folder.mark_finished(summary)
    again = RunFolder.create_or_resume(tmp_path, SETTINGS)
    assert again.finished == summary == json.loads((tmp_path / "finished.json").read_text())


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"step": 3', "null", "[" * 10**5, '{"step": 3, "metrics": {}, "best": 7}',
        '{"step": 1e400, "metrics": {}, "best": null}', '{"step": 3, "metrics": {"a": "b"}, "best": null}',
        '{"step": 3, "metrics": [], "best": null}', '{"step": 3, "metrics": {}, "best": {"metric": "a"}}',
    ],
)  # fmt: skip
def test_a_damaged_end_is_one_line(tmp_path: Path, content: str) -> None:
    folder = RunFolder.create_or_resume(tmp_path, SETTINGS)
    (tmp_path / "finished.json").write_text(content)
    with pytest.raises(UserError, match=r"finished.json is damaged .*; remove it, and run the same command"):
        assert folder.finished


def test_without_locks_the_last_to_come_writes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    first = RunFolder.create_or_resume(tmp_path, SETTINGS)
    first.must_be_ours()
    second = RunFolder.create_or_resume(tmp_path, SETTINGS)
    second.must_be_ours()
    with pytest.raises(UserError, match=r"another process has taken over the run in .*has no locks"):
        first.must_be_ours()


def test_a_step_may_be_shared_otherwise_if_it_has_as_many_videos(tmp_path: Path) -> None:
    settings = replace(SETTINGS, optim=OptimSettings(batch_size=8))
    RunFolder.create_or_resume(tmp_path, settings, "one step: 32 videos, 128 clips, forwards: 1")
    shared = replace(SETTINGS, optim=OptimSettings(batch_size=4, accumulate=4))
    with pytest.raises(UserError, match=r"expected optim.batch_size 8, got 4; expected optim.accumulate 1"):
        RunFolder.create_or_resume(tmp_path, shared, "one step: 16 videos, 64 clips, forwards: 4")
    RunFolder.create_or_resume(tmp_path, shared, "one step: 32 videos, 128 clips, forwards: 4")
