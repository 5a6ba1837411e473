"""A loader's process: how it behaves when signals come, and how a fault in it reaches the process that
trains.
"""

import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from videomae2.errors import RowError, UserError

GRACE_SECONDS = 60
"""How long a worker outlives SIGTERM: a cluster sends it to the whole group, and the run still has to be
saved.
"""

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """An exception on its way from a worker: the loader would send it as a page of text, and lose its
    class.
    """

    kind: type[Exception]
    message: str
    trace: str


@dataclass(frozen=True)
class Guarded:
    """A dataset whose exceptions come back as items."""

    dataset: Any

    def __getitem__(self, place: Any) -> Any:
        try:
            return self.dataset[place]
        except (UserError, RowError) as error:
            kind = UserError if isinstance(error, UserError) else RowError
            return Fault(kind, str(error), traceback.format_exc())


@dataclass(frozen=True)
class GuardedCollate(Generic[T]):
    """What makes a batch of items, or hands on the first fault among them."""

    collate: Callable[[list[Any]], T]

    def __call__(self, items: list[Any]) -> T | Fault:
        return next((item for item in items if isinstance(item, Fault)), None) or self.collate(items)


def prepare_worker(_: int) -> None:
    """One thread each; interrupts are the main process's business, and a stop waits until it has saved the
    run.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
