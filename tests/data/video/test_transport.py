"""The way to a video: what fails for a while is tried again, and is told apart from a broken video.

A filesystem and an HTTP server that fail as they are told.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pytest
import torch
from fsspec.exceptions import FSTimeoutError
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from videomae2.data.batches import training_batches
from videomae2.data.clips import EvaluationClips, TrainingClips
from videomae2.data.sampling import Dense, RandomWindow
from videomae2.data.tables.inspect import inspect_row
from videomae2.data.tables.manifest import Manifest, Row
from videomae2.data.video import opening, transport
from videomae2.data.video.decode import VideoFile, open_video
from videomae2.errors import UserError
from videomae2.records import Clip, Failure
from videomae2.settings import DataSettings, PretrainData

DATA = PretrainData(stride=1, repeated_views=1, retries=3, workers=0, max_broken=1.0)


class Flaky(AbstractFileSystem):  # type: ignore[misc]
    """Files in memory; each look at one first takes the next of `faults`: an error, or seconds of silence."""

    protocol = "flaky"
    cachable = False
    files: ClassVar[dict[str, bytes]] = {}
    faults: ClassVar[list[Exception | float]] = []
    opened: ClassVar[list[str]] = []

    def fault(self) -> None:
        fault = self.faults.pop(0) if self.faults else 0.0
        if isinstance(fault, Exception):
            raise fault
        time.sleep(fault)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        if name not in self.files:
            raise FileNotFoundError(name)
        return {"name": name, "size": len(self.files[name]), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> "FlakyFile":
        self.opened.append(path)
        self.fault()
        return FlakyFile(self, path, mode, block_size=1 << 12, cache_type="none")


class FlakyFile(AbstractBufferedFile):  # type: ignore[misc]
    def read(self, length: int = -1) -> bytes:
        return bytes(super().read(min(length, 1024) if length > 0 else length))  # so that there are several

    def _fetch_range(self, start: int, end: int) -> bytes:
        self.fs.fault()
        return Flaky.files[self.path][start:end]


class AnswerError(Exception):
    """As aiohttp and others report an answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"answer {status}")
        self.status = status


def not_found_after(status: int) -> FileNotFoundError:
    """How fsspec reports that it could not learn the size of a file."""
    error = FileNotFoundError("http://x/v.mp4")
    error.__cause__ = AnswerError(status)
    return error


@pytest.fixture
def video(tmp_path: Path, write_numbered: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_numbered(tmp_path / "v.mp4", num_frames=30, size=(96, 96))
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(transport, "FIRST_PAUSE", 0.01)
    Flaky.files = {"v.mp4": path.read_bytes(), "broken.mp4": b"no video at all" * 1000}
    Flaky.faults, Flaky.opened = [], []
    transport.OUTAGE.clear()
    return path


def training(path: str, data: DataSettings = DATA) -> TrainingClips:
    return TrainingClips(Manifest(pa.table({"path": [path]})), data, 32, RandomWindow(8))


def clip(path: str, data: DataSettings = DATA) -> torch.Tensor:
    (made,) = training(path, data)[0, 0]
    assert isinstance(made, Clip), made
    return made.frames


def failure(path: str, data: DataSettings = DATA) -> Failure:
    (made,) = training(path, data)[0, 0]
    assert isinstance(made, Failure), made
    return made


PASSING: list[Callable[[], Exception]] = [
    lambda: OSError(errno.ESTALE, "Stale file handle"),
    lambda: OSError(errno.EIO, "Input/output error"),
    lambda: TimeoutError("timed out"),
    lambda: ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    FSTimeoutError,
    lambda: AnswerError(503),
    lambda: not_found_after(502),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: type(fault()).__name__)
def test_what_fails_for_a_while_is_read_and_shows_the_same_frames(
    video: Path, fault: Callable[[], Exception]
) -> None:
    opens_at_last: list[Exception | float] = [fault(), fault(), 0.0]
    # It is opened anew before it is read on.
    fails_three_times: list[Exception | float] = [fault(), fault(), 0.0, fault(), 0.0, 0.0]
    Flaky.faults = [*opens_at_last, 0.0, *fails_three_times, fault()]
    assert torch.equal(clip("flaky://v.mp4"), clip(str(video)))
    assert not Flaky.faults, "three in a row are borne, and more in all"


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: type(fault()).__name__)
def test_what_goes_on_failing_is_no_broken_video(video: Path, fault: Callable[[], Exception]) -> None:  # noqa: ARG001
    Flaky.faults = [fault() for _ in range(50)]
    found = failure("flaky://v.mp4")
    assert found.kind == "transport"
    assert found.reason.startswith("could not be reached in 4 tries: ")
    assert len(Flaky.faults) == 46


@pytest.mark.parametrize(
    ("name", "fault", "reason"),
    [
        ("broken.mp4", None, "not a video that FFmpeg can read"),
        ("absent.mp4", None, "not a video that FFmpeg can read"),
        ("v.mp4", PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        ("v.mp4", not_found_after(404), "http://x/v.mp4"),
        ("v.mp4", AnswerError(403), "answer 403"),
    ],
)
def test_what_stays_broken_is_tried_once(
    video: Path,  # noqa: ARG001
    name: str,
    fault: Exception | None,
    reason: str,
) -> None:
    Flaky.faults = [fault] if fault else []
    found = failure(f"flaky://{name}")
    assert found.kind == "broken" and reason in found.reason
    assert len(Flaky.opened) <= 1


def test_a_video_may_take_so_long_and_no_longer(video: Path) -> None:  # noqa: ARG001
    Flaky.faults = [0.0, 5.0]
    start = time.monotonic()
    found = failure("flaky://v.mp4", PretrainData(stride=1, repeated_views=1, max_seconds=0.3))
    assert time.monotonic() - start < 4, "a read that does not return is not waited for"
    assert (found.kind, found.reason) == (
        "time",
        "took longer than 0.3 seconds; --data.max_seconds allows more",
    )
    Flaky.faults = [0.0, 0.2]
    clip("flaky://v.mp4", PretrainData(stride=1, repeated_views=1, max_seconds=0.0))


def test_a_server_that_is_down_is_waited_for_once(video: Path) -> None:  # noqa: ARG001
    Flaky.faults = [AnswerError(503)] * 99
    clips = TrainingClips(Manifest(pa.table({"path": ["flaky://v.mp4"] * 12})), DATA, 32, RandomWindow(8))
    found = [each for each in clips[0, 0] if isinstance(each, Failure)]
    assert [each.reason.split(":")[0] for each in found] == [
        "could not be reached in 4 tries", *["could not be reached in 1 try"] * 9
    ]  # fmt: skip
    Flaky.faults = []
    assert clip("flaky://v.mp4").shape == (8, 3, 32, 32)
    Flaky.faults = [AnswerError(503)] * 3
    assert clip("flaky://v.mp4").shape == (8, 3, 32, 32), "what works is trusted again"


def test_pauses_count_as_time(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setattr(transport, "FIRST_PAUSE", 60.0)
    Flaky.faults = [AnswerError(503)] * 9
    start = time.monotonic()
    assert failure("flaky://v.mp4", PretrainData(repeated_views=1, max_seconds=5.0)).kind == "transport"
    assert time.monotonic() - start < 4, "a pause beyond the end is not begun"


def test_slow_decoding_ends_in_time(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience = transport.Patience(seconds=100)
    monkeypatch.setattr(patience, "_ends", 0.0)
    with pytest.raises(opening.DecodeError) as caught, open_video(video, patience=patience) as opened:
        opened.read([29])
    assert transport.too_long(caught.value) is not None


def test_a_mount_that_fails_for_a_while(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [errno.ESTALE, errno.EIO, errno.ETIMEDOUT]
    plain = os.stat

    def stat(path: Any, **how: Any) -> os.stat_result:
        if str(path) == str(video) and faults:
            raise OSError(faults.pop(), "of a mount")
        return plain(path, **how)

    monkeypatch.setattr(os, "stat", stat)
    assert clip(str(video)).shape == (8, 3, 32, 32)
    faults += [errno.ESTALE] * 20
    assert failure(str(video)).kind == "transport"
    faults.clear()
    assert transport.OUTAGE.is_set() and clip(str(video)).shape == (8, 3, 32, 32)
    assert not transport.OUTAGE.is_set()
    assert failure(str(video.with_name("absent.mp4"))).reason == "no such file"


def test_a_row_that_is_read_again_shows_the_frames_it_drew(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, plain, faults = clip(str(video)), VideoFile.collect, [errno.ESTALE]

    def collect(self: VideoFile, *what: Any, **how: Any) -> Any:
        if faults:
            raise OSError(faults.pop(), "of a mount")
        return plain(self, *what, **how)

    monkeypatch.setattr(VideoFile, "collect", collect)
    assert torch.equal(clip(str(video)), expected) and not faults


def test_ffmpegs_input_output_error_of_a_damaged_file_is_not_the_disks(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    def damaged(*_: Any, **__: Any) -> None:
        raise av.error.OSError(errno.EIO, "Input/output error", str(video))

    monkeypatch.setattr(av, "open", damaged)
    assert failure(str(video)).kind == "broken"
    monkeypatch.setattr(transport, "_disk_fails", lambda _: True)
    assert failure(str(video)).kind == "transport"


def test_a_folder_of_frames_is_not_cut_short_by_a_mount(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    folder = video.parent / "frames"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (40, 40)).save(folder / f"{number}.png")
    plain, faults = os.stat, [errno.EIO]

    def stat(path: Any, **how: Any) -> os.stat_result:
        if str(path).endswith("8.png") and faults:
            raise OSError(faults.pop(), "of a mount")
        return plain(path, **how)

    monkeypatch.setattr(os, "stat", stat)
    assert inspect_row(Row(str(folder), pattern="{}.png")).num_frames == 12
    assert not faults


def test_the_records_of_a_run_and_of_an_evaluation_tell_them_apart(video: Path) -> None:  # noqa: ARG001
    Flaky.faults = [AnswerError(503)] * 99
    paths = Manifest(pa.table({"path": ["flaky://v.mp4", "flaky://broken.mp4"]}))
    clips = TrainingClips(paths, DATA, 32, RandomWindow(8))
    with pytest.raises(
        UserError, match=r"could not be reached in 4 tries: AnswerError: answer 503.*again: it"
    ):
        next(training_batches(clips, batch_size=2, seed=0))
    transport.OUTAGE.clear()
    Flaky.faults = [AnswerError(503)] * 4
    evaluated = EvaluationClips(paths, DATA, 32, Dense(8), (1, 1))
    found = [evaluated[0], evaluated[1]]
    assert [each.kind for each in found if isinstance(each, Failure)] == ["transport", "broken"]


# ---- HTTP


class Server(BaseHTTPRequestHandler):
    """Serves one file by ranges; each GET first takes the next of `script`: a status, "cut" or "slow"."""

    data: ClassVar[bytes] = b""
    script: ClassVar[list[int | str]] = []

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()

    def do_GET(self) -> None:
        act = self.script.pop(0) if self.script else 206
        if isinstance(act, int) and act >= 400:
            self.send_error(act)
            return
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        start, end = int(first), min(int(last) + 1, len(self.data))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(self.data)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if act == "slow":
            time.sleep(2.5)
        self.wfile.write(self.data[start : (start + end) // 2 if act == "cut" else end])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(video: Path) -> Iterator[str]:
    pytest.importorskip("aiohttp")
    Server.data, Server.script = video.read_bytes(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v.mp4"
    server.shutdown()
    server.server_close()


def test_http_answers_that_fail_are_asked_for_again(address: str, video: Path) -> None:
    Server.script = [503, "cut", 429]
    assert torch.equal(clip(address), clip(str(video)))
    assert not Server.script


def test_http_failures_by_kind(address: str) -> None:
    Server.script = [503] * 20
    found = failure(address)
    assert found.kind == "transport" and "4 tries: ClientResponseError: 503" in found.reason
    Server.script = ["slow"]
    transport.OUTAGE.clear()
    assert failure(address, PretrainData(repeated_views=1, max_seconds=0.5)).kind == "time"
    Server.script = [404]
    assert failure(address).kind == "broken"
    Server.script, Server.data = [], b"no video" * 100
    assert failure(address.replace("v.mp4", "w.mp4")).kind == "broken"
    assert failure("http://127.0.0.1:9/v.mp4").kind == "transport", "nobody listens there"
