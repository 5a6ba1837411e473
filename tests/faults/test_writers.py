"""Every writer where nothing can be written: one line with the path and what to do, the folder as it was.

In three ways: a file may not grow (a limit of the process, possible anywhere), a file system is full, or it
is read-only (both mounted, which needs the rights to do so).
"""

import gc
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.api.pictures import save_reconstruction
from videomae2.api.views import Reconstruction
from videomae2.data.sprites.draw import UNFINISHED, write_sprites
from videomae2.data.sprites.scene import SpriteSettings
from videomae2.data.tables.manifest import write_manifest
from videomae2.engine import checkpoint
from videomae2.engine.log import RunLog
from videomae2.engine.run import RunFolder
from videomae2.errors import UserError
from videomae2.files import replacing, sweep, write_atomically
from videomae2.models.build import build_autoencoder
from videomae2.recipes.evaluate import evaluate_classifier, write_evaluation
from videomae2.recipes.feed import evaluation_feed
from videomae2.recipes.weights import read_classifier
from videomae2.records import Failure
from videomae2.report.training import write_evaluation_report, write_run_report
from videomae2.settings import EvaluateSettings, PretrainSettings
from videomae2.weights.write import save_safetensors, write_released, write_transformers

from ..small_runs import DATA, SmallRuns
from ..tiny import settings as tiny_settings
from .test_kill import FORK

TINY = tiny_settings()
LONG = "x" * 5000
"""More than one page of memory: a full file system may have room in a page that is begun."""


def weights() -> Any:
    return build_autoencoder(TINY, torch.Generator().manual_seed(torch.seed() % 1000))


def log_of(folder: Path, tensorboard: bool = False) -> RunLog:
    # Resumed at a later step than its lines are of, which it therefore keeps.
    return RunLog(RunFolder(folder), 5, 10, name="toy", tensorboard=tensorboard)


def metrics(folder: Path) -> None:
    with log_of(folder) as log:
        log.evaluation(1, 0.5, {f"{number}{LONG}": 1.0 for number in range(2)})


def failures(folder: Path) -> None:
    with log_of(folder) as log:
        log.failures([Failure(len((folder / "failures.jsonl").read_bytes()), "a.mp4", LONG)])


def events(folder: Path) -> None:
    log = log_of(folder, tensorboard=True)
    for number in range(100):
        log._event("train", {"step": number, LONG: 1.0})


def evaluation(runs: SmallRuns, folder: Path) -> None:
    trained = read_classifier(str(runs.finetuned))
    feed = evaluation_feed(replace(DATA, val=str(runs.videos)), trained.settings, (1, 1))
    found = evaluate_classifier(trained.module, feed, class_names=trained.checkpoint.class_names)
    found = replace(found, weights=LONG)
    write_evaluation(found, feed, folder, EvaluateSettings(str(runs.finetuned)))
    write_evaluation_report(found, folder)


def report(runs: SmallRuns, folder: Path) -> None:
    for name in ("config.toml", "metrics.jsonl"):
        if not (folder / name).exists():
            shutil.copy(runs.pretrained / name, folder / name)
    write_run_report(folder)


def sprites(folder: Path) -> None:
    out = folder / "set"
    write_sprites(out, num_videos=2, seed=1, settings=SpriteSettings(size=32, num_frames=8))
    (out / "manifest.csv").unlink()  # so that it may be drawn again, as after a kill
    (out / UNFINISHED).touch()


def settings(folder: Path) -> None:
    RunFolder.create_or_resume(folder / "run", PretrainSettings(init="y" * 5000))


def finished(folder: Path) -> None:
    RunFolder(folder).mark_finished({"step": 1, "metrics": {LONG: 1.0}, "best": None})


def a_checkpoint(folder: Path) -> None:
    checkpoint.save_checkpoint(folder, {"model.weight": torch.randn(5000)}, {}, 1)


FRAMES = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
TABLE = {"path": [f"{number}{LONG}" for number in range(3)], "label": [0, 1, 2]}
WRITERS: dict[str, tuple[Callable[[SmallRuns, Path], object], str]] = {
    "a.safetensors": (lambda _, to: save_safetensors(to / "a.safetensors", weights(), TINY, "pretrain"), ""),
    "a.pth": (lambda _, to: write_released(to / "a.pth", weights(), TINY, "pretrain"), ""),
    "a transformers folder": (
        lambda _, to: write_transformers(to / "hf", weights(), TINY, "pretrain"),
        "hf/",
    ),
    "a.arrow": (lambda _, to: write_manifest(to / "a.arrow", TABLE), ""),
    "a.parquet": (lambda _, to: write_manifest(to / "a.parquet", TABLE), ""),
    "a.csv": (lambda _, to: write_manifest(to / "a.csv", TABLE), ""),
    "a.mp4": (
        lambda _, to: save_reconstruction(Reconstruction(FRAMES, FRAMES, FRAMES, 0.5), to / "a.mp4"),
        "",
    ),
    "an evaluation": (evaluation, "summary.json"),
    "report.html": (report, ""),
    "sprites": (lambda _, to: sprites(to), "set/"),
    "metrics.jsonl": (lambda _, to: metrics(to), ""),
    "failures.jsonl": (lambda _, to: failures(to), ""),
    "events": (lambda _, to: events(to), "events/events.out.tfevents"),
    "config.toml": (lambda _, to: settings(to), "run"),
    "finished.json": (lambda _, to: finished(to), ""),
    "a checkpoint": (lambda _, to: a_checkpoint(to), "checkpoint"),
}
"""Name -> a writer of a folder, and what its error names where that is not the name itself."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(runs: SmallRuns, folder: Path, name: str) -> None:
    """What the writer writes where it can: the folder before."""
    folder.mkdir()
    for number in range(2):  # events have a file a process and second, and sprites are drawn again
        if number == 0 or name not in ("events", "a checkpoint"):
            (folder / "failures.jsonl").touch()
            WRITERS[name][0](runs, folder)


def assert_refused(runs: SmallRuns, folder: Path, name: str, reason: str) -> None:
    """One line that names the file and the reason, and nothing of the folder is another."""
    before = contents(folder)
    with pytest.raises(UserError) as caught:
        WRITERS[name][0](runs, folder)
    said = str(caught.value)
    assert (WRITERS[name][1] or name) in said and reason in said, said
    assert "could not be written" in said and "run the same command" in said and "\n" not in said, said
    assert ".tmp" not in said and ".writing" not in said, said
    after = contents(folder)
    if name == "events":  # within a second a process adds to its file, record by record, each of them whole
        after = {path: content[: len(before.get(path, content))] for path, content in after.items()}
    assert after == before
    assert not [path for path in folder.rglob(".*") if path.suffix == ".tmp" or "writing" in path.name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_may_not_grow(runs: SmallRuns, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    written(runs, folder, name)

    def work() -> None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
        try:
            assert_refused(runs, folder, name, "a file may not grow this large here")
        except BaseException as error:
            errors.put(f"{type(error).__name__}: {error}")
            raise
        errors.put("")

    errors = FORK.SimpleQueue()
    process = FORK.Process(target=work)
    process.start()
    assert errors.get() == ""
    process.join()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path_factory.mktemp("small")
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs the rights to do so")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_system_that_is_full(runs: SmallRuns, small: Path, name: str) -> None:
    folder = small / name
    written(runs, folder, name)
    filler = small / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        assert_refused(runs, folder, name, "the disk is full (0 MB free)")
    finally:
        filler.unlink()


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_system_that_is_read_only(runs: SmallRuns, small: Path, name: str) -> None:
    folder = small / f"{name} read-only"
    written(runs, folder, name)
    gc.collect()  # the lock of a run that was refused before is open as long as its error is remembered
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    try:
        assert_refused(runs, folder, name, "read-only file system")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path: Path) -> None:
    def work() -> None:
        with replacing(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), 9)

    process = FORK.Process(target=work)
    process.start()
    process.join()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.bin.") and left.suffix == ".tmp"
    with replacing(tmp_path / "b.bin") as temporary:  # of another file in the same folder
        temporary.write_bytes(b"whole")
        here = {path.name for path in tmp_path.iterdir()}
        assert left.name not in here and len(here) == 1  # and one that is in use stays
        sweep(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == here
    write_atomically(tmp_path / "c.bin", b"too")
    assert {path.name for path in tmp_path.iterdir()} == {"b.bin", "c.bin"}


def test_a_name_as_long_as_a_name_may_be(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".html")
    write_atomically(path, "whole")
    assert path.read_text() == "whole"
    with pytest.raises(
        UserError, match=r"^\.\.\..* could not be written: file name too long; choose another"
    ):
        write_atomically(tmp_path / ("x" * 300), "whole")


def test_a_full_standard_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "videomae2", "cost", "--json"]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert found.returncode == 2
    assert (
        found.stderr
        == "error: what was to be printed could not be: No space left on device; make room there\n"
    )
