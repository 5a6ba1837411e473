"""The way to a video: its faults, which are tried again and are not the video's; and how long one may take.

A network, a server or a mounted disk fails for a while and works again. A broken file stays broken: trying it
again costs time, and calling it unreachable would hide it.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import av

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a fault is tried again: twice as many after each further one, up to the longest."""

OUTAGE = threading.Event()
"""Set where retries ran out, until something works: meanwhile every video of this process is tried just once.

A server that is down would else be waited for again by each row of each batch, and a run would seem to hang.
"""

_ERRNOS = frozenset({
    errno.EAGAIN, errno.ECOMM, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EIO, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.ENOLINK,
    errno.ENOTCONN, errno.EPIPE, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
})  # fmt: skip
"""What systems say of disks, mounts and networks that fail."""
_FFMPEGS_OWN = frozenset({errno.EAGAIN, errno.EIO, errno.EPIPE})
"""What FFmpeg also says of files that are damaged."""
_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP answers that ask to come again."""
_NAMES = (
    "connection", "disconnected", "gaierror", "httpserver", "incompleteread", "payloaderror", "protocolerror",
    "serviceunavailable", "throttl", "timeout", "toomanyrequests", "transporterror",
)  # fmt: skip
"""Parts of the names of exceptions of aiohttp, botocore, google-cloud, urllib3, httpx and Python itself.

By name, because a list of classes would import all of them.
"""


class TookTooLong(TimeoutError):
    """A video took longer than it may."""


class CutOffError(ConnectionError):
    """A server ended its answer before the end of the file."""


class Patience:
    """How long a video may take, in seconds (0: as long as it will), and how often faults are tried again.

    `retries` counts faults in a row: what works once is trusted anew. The time runs from here on, over all
    tries and pauses.
    """

    def __init__(self, seconds: int | float = 0, retries: int = 0) -> None:
        self.seconds, self.retries, self.tries = seconds, retries, 1
        self._in_a_row = 0
        self._ends = time.monotonic() + seconds if seconds > 0 else float("inf")

    def check(self) -> None:
        """TookTooLong where the time is over."""
        if time.monotonic() > self._ends:
            raise self._over()

    def again(self, error: BaseException, path: str = "") -> bool:
        """Whether to try again after an error, once the pause for it is over."""
        if transport_fault(error, path) is None or OUTAGE.is_set():
            return False
        pause = min(FIRST_PAUSE * 2**self._in_a_row, LONGEST_PAUSE)
        if self._in_a_row >= self.retries or time.monotonic() + pause > self._ends:
            OUTAGE.set()
            return False
        self._in_a_row += 1
        self.tries += 1
        time.sleep(pause)
        return True

    def keep(self, act: Callable[[], T], path: str = "") -> T:
        """What `act` gives, tried again while the way to `path` fails; its last error where that goes on."""
        while True:
            try:
                done = act()
            except Exception as error:
                if not self.again(error, path):
                    raise
            else:
                self._in_a_row = 0
                OUTAGE.clear()
                return done

    def bounded(self, act: Callable[[], T]) -> T:
        """What `act` gives or raises, but TookTooLong where it is not done in time.

        It runs in a thread of its own, since a read from a dead mount returns when it likes. One that is late
        is left behind, and ends at its next `check`.
        """
        if self.seconds <= 0:
            return act()
        made: list[T] = []
        raised: list[BaseException] = []

        def work() -> None:
            try:
                made.append(act())
            except BaseException as error:
                raised.append(error)

        # Not an executor's: Python waits for those at its exit.
        thread = threading.Thread(target=work, name="one video", daemon=True)
        thread.start()
        thread.join(max(self._ends - time.monotonic(), 0.0))
        if raised:
            raise raised[0]
        if not made:
            raise self._over()
        return made[0]

    def _over(self) -> TookTooLong:
        return TookTooLong(f"took longer than {self.seconds:g} seconds; --data.max_seconds allows more")


class RemoteFile:
    """A file behind a URL that fsspec knows; where its server fails, it is opened anew and read on."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.name = url
        self._patience = patience
        self._position = 0
        self._file: Any = None
        self._failed = False
        self._keep(self._opened)

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes; none at the end."""
        if self._failed:  # FFmpeg may go on after an error, and PyAV would print each further one
            return b""

        def act() -> bytes:
            file = self._opened()
            data: bytes = file.read(count)
            size = getattr(file, "size", None)
            if not data and count and isinstance(size, int) and self._position < size:
                raise CutOffError(f"the answer ends at byte {self._position} of {size}")
            return data

        data = self._keep(act)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte; the position that results."""
        if self._failed:
            return self._position

        def act() -> int:
            file = self._opened()
            file.seek(offset, whence)
            position: int = file.tell()
            return position

        self._position = self._keep(act)
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def close(self) -> None:
        """Let go of the connection."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):  # of a connection that is gone
                file.close()

    def _opened(self) -> Any:
        if self._file is None:
            import fsspec

            self._file = fsspec.open(self.name, "rb").open()
            if self._position:
                self._file.seek(self._position)
        return self._file

    def _keep(self, act: Callable[[], T]) -> T:
        def try_once() -> T:
            self._patience.check()
            try:
                return act()
            except Exception:
                self.close()
                raise

        try:
            return self._patience.keep(try_once, self.name)
        except Exception:
            self._failed = True
            raise


def transport_fault(error: BaseException, path: str = "") -> BaseException | None:
    """The fault of the way to a video that an error comes from, if it comes from one.

    `path` is the file that was read: of a damaged one FFmpeg may say EIO, too, so then the disk is asked.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, TookTooLong) for cause in causes):
        return None
    return next((cause for cause in causes if _is_transport(cause, path)), None)


def too_long(error: BaseException) -> TookTooLong | None:
    """The end of patience that an error comes from, if it comes from one."""
    return next((cause for cause in _causes(error) if isinstance(cause, TookTooLong)), None)


def is_there(path: str) -> bool:
    """Whether there is something at `path`; OSError where the disk fails to say so."""
    try:
        os.stat(path)  # noqa: PTH116 - called for each clip
    except OSError as error:
        if error.errno in _ERRNOS:
            raise
        return False
    except ValueError:  # a name that no file can have
        return False
    return True


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, whether that is shown in a traceback or not."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and not any(each is other for other in seen):
            seen.append(each)
            yield each
            waiting += [each.__context__, each.__cause__]


def _is_transport(error: BaseException, path: str) -> bool:
    if isinstance(error, av.error.FFmpegError) and error.errno in _FFMPEGS_OWN:
        return "://" not in path and _disk_fails(path)
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    answers = (error, getattr(error, "response", None))
    if any(getattr(each, name, None) in _STATUSES for each in answers for name in ("status", "status_code")):
        return True
    kinds = (kind.__name__.lower() for kind in type(error).__mro__)
    return any(part in kind for kind in kinds for part in _NAMES)


def _disk_fails(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        return error.errno in _ERRNOS
    except ValueError:
        return False
    return False
