"""SIGTERM and SIGINT: recorded when they arrive, acted on between two optimizer steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """A context in which the first SIGTERM or SIGINT sets `number` instead of ending the process.

    A later Ctrl-C raises KeyboardInterrupt at once. Further SIGTERMs are ignored: cluster schedulers repeat
    them while the run saves its checkpoint.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python forbids handlers to other threads: a program that trains in one handles signals itself.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
