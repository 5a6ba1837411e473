"""Loader processes: what runs in them, what comes from them, and how a fault in one reaches the trainer."""

import math
import signal
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from videomae2 import chance
from videomae2.errors import RowError, UserError

GRACE_SECONDS = 60
"""How long a worker outlives SIGTERM: a cluster sends it to the whole group, and the run must still save."""

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """An exception on its way from a worker: the loader would send a page of text, and lose its class."""

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
        """The batch of these items, or the first fault."""
        return next((item for item in items if isinstance(item, Fault)), None) or self.collate(items)


def prepare_worker(_: int) -> None:
    """Run first in each worker: one thread each, and signals left to the main process.

    A worker that died at once of SIGTERM would take the run with it before the run is saved; the alarm ends
    workers whose main process is gone.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))


def collated(
    dataset: Any, places: Iterable[list[Any]], collate: Callable[[list[Any]], T], workers: int, pin: bool
) -> Generator[T, None, None]:
    """What `collate` makes of the items at each list of places, in order; made by `workers` processes.

    Closing the iterator ends the workers. UserError or RowError as the dataset raised it, and UserError where
    a worker died.
    """
    with warnings.catch_warnings():
        # More workers than cores is a user's choice.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader: DataLoader[Any] = DataLoader(
            Guarded(dataset),  # type: ignore[arg-type]
            batch_sampler=places,
            collate_fn=GuardedCollate(collate),
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=2 if workers else None,
            worker_init_fn=prepare_worker if workers else None,
            # Without one, the loader would draw its workers' seed from the global generator.
            generator=chance.torch_generator(chance.key(0, "loader")),
        )
        iterator = iter(loader)
    try:
        while True:
            try:
                made = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise UserError(
                    "a loader process died, most often for want of memory (or of /dev/shm in a container); "
                    f"try fewer --data.workers or a smaller batch ({str(error).splitlines()[0]})"
                ) from error
            if isinstance(made, Fault):
                raise made.kind(made.message) from RuntimeError(made.trace)
            yield made
    finally:
        shut_down = getattr(iterator, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()


def batch_memory(shape: tuple[int, ...]) -> Tensor | None:
    """In a loader process, memory that the main process can map; None elsewhere, where any will do.

    A batch that was stacked in ordinary memory would be copied to such memory before it is sent.
    """
    if get_worker_info() is None:
        return None
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    memory = torch.empty(0, dtype=torch.uint8)
    memory.set_(storage, 0, shape)  # type: ignore[call-overload]
    return memory
