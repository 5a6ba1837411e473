"""Loader processes: what runs in them, what comes from them, and how a fault in one reaches the trainer."""

import math
import signal
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling

from videomae2 import chance
from videomae2.errors import RowError, UserError

GRACE_SECONDS = 60
"""How long a worker outlives SIGTERM: a cluster sends it to the whole group, and the run must still save."""

DEATH_SECONDS = 0.2
"""How long a process that seems to have died is waited for."""

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
        fault = next((item for item in items if isinstance(item, Fault)), None)
        try:
            return fault or self.collate(items)
        except UserError as error:
            return Fault(UserError, str(error), traceback.format_exc())


def prepare_worker(_: int) -> None:
    """Run first in each worker: one thread each, and signals left to the main process.

    A worker that died at once of SIGTERM would take the run with it before the run is saved; the alarm ends
    workers whose main process is gone.
    """
    torch.set_num_threads(1)
    signal.set_wakeup_fd(-1)  # the main process's, which would take this one's signals for its own
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))


def collated(
    dataset: Any, places: Iterable[list[Any]], collate: Callable[[list[Any]], T], workers: int, pin: bool
) -> Generator[T, None, None]:
    """What `collate` makes of the items at each list of places, in order; made by `workers` processes.

    Closing the iterator ends the workers. UserError or RowError as the dataset raised it, and UserError where
    a worker died or none could be started.
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
        iterator = _started(loader)
    try:
        while True:
            try:
                made = next(iterator)
            except StopIteration:
                return
            # A worker's death shows as whatever the main process was waiting for: its turn, its batch, its
            # memory.
            except (RuntimeError, OSError, EOFError) as error:
                if (death := _death(getattr(iterator, "_workers", ()))) is None:
                    raise
                raise UserError(death) from error
            if isinstance(made, Fault):
                raise made.kind(made.message) from RuntimeError(made.trace)
            yield made
    finally:
        shut_down = getattr(iterator, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()


def _started(loader: DataLoader[Any]) -> Any:
    """An iterator of the loader, whose workers it starts."""
    # Torch's handler of SIGCHLD raises in whatever the main process is just doing when a worker dies: in a
    # backward pass, while a checkpoint is written, while the next worker is started. It is told that it is
    # there already; then the loader itself finds the death, within seconds, when the batch does not come.
    before = signal_handling._SIGCHLD_handler_set
    signal_handling._SIGCHLD_handler_set = True
    try:
        return iter(loader)
    except OSError as error:
        raise UserError(
            f"expected to start {loader.num_workers} loader processes, got: {error.strerror or error}; try "
            "fewer --data.workers"
        ) from error
    finally:
        signal_handling._SIGCHLD_handler_set = before


def _death(workers: Sequence[Any]) -> str | None:
    """How the first of the loader's processes that is dead has died, and what to try; None if all live."""
    for worker in workers:
        worker.join(DEATH_SECONDS)  # its connection breaks a moment before it is gone
        code = worker.exitcode
        if not code:
            continue
        fewer = f"try fewer --data.workers ({len(workers)} now) or a smaller batch"
        if code == -signal.SIGKILL:
            return (
                "a loader process was killed (SIGKILL), most often by the system for want of memory; "
                f"{fewer}, and run the same command again"
            )
        if code == -signal.SIGBUS:
            return (
                "a loader process died of SIGBUS, most often because /dev/shm is full (in a container, raise "
                f"its --shm-size); {fewer}, and run the same command again"
            )
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return (
            f"a loader process died of {name}, most often in the decoding of one video; find it with "
            "videomae2 data check, or try --data.workers 0"
        )
    return None


def batch_memory(shape: tuple[int, ...]) -> Tensor | None:
    """In a loader process, memory that the main process can map; None elsewhere, where any will do.

    A batch that was stacked in ordinary memory would be copied to such memory before it is sent.
    """
    if get_worker_info() is None:
        return None
    try:
        storage = torch.UntypedStorage._new_shared(math.prod(shape))
    except RuntimeError as error:
        raise UserError(
            f"a batch of {math.prod(shape) / 2**20:.0f} MB does not fit into shared memory (/dev/shm; in a "
            "container, raise its --shm-size); try fewer --data.workers or a smaller batch"
        ) from error
    memory = torch.empty(0, dtype=torch.uint8)
    memory.set_(storage, 0, shape)  # type: ignore[call-overload]
    return memory
