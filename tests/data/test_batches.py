"""The loader: every batch is a function of its number, for any workers and processes; failures count."""

import itertools
import logging
import os
import signal
import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from videomae2 import chance
from videomae2.data.batches import (
    TrainingOrder,
    epoch_order,
    evaluation_batches,
    training_batches,
)
from videomae2.errors import RowError, UserError
from videomae2.geometry import TokenGrid
from videomae2.labels import Classes, Target
from videomae2.masking import draw_split
from videomae2.records import Batch, Clip, Failure
from videomae2.settings import MaskSettings


@dataclass
class Numbers:
    """Clips that say where they came from; rows in `broken` fail, and the next readable row replaces them."""

    num_rows: int = 10
    broken: tuple[int, ...] = ()
    views: int = 2
    num_frames: int = 2
    size: int = 4

    def __len__(self) -> int:
        return self.num_rows

    def clips(self, epoch: int, row: int, failures: tuple[Failure, ...] = ()) -> list[Clip]:
        values = [(epoch * 100 + row * 10 + view) % 256 for view in range(self.views)]
        frames = [torch.full((2, 3, 4, 4), value, dtype=torch.uint8) for value in values]
        return [
            Clip(f, row, view, Classes.one(row % 3), failures=failures if view == 0 else ())
            for view, f in enumerate(frames)
        ]


class Training(Numbers):
    def __getitem__(self, place: tuple[int, int]) -> list[Clip] | list[Failure]:
        epoch, asked = place
        failures: list[Failure] = []
        for row in itertools.islice(
            itertools.cycle(range(self.num_rows)), asked, asked + min(10, self.num_rows)
        ):
            if row not in self.broken:
                return self.clips(epoch, row, tuple(failures))
            failures.append(Failure(row, f"{row}.mp4", "moov atom not found"))
        return failures


class Evaluation(Numbers):
    def __getitem__(self, row: int) -> list[Clip] | Failure:
        return Failure(row, f"{row}.mp4", "no video stream") if row in self.broken else self.clips(0, row)


class Dying(Training):
    number = signal.SIGKILL

    def __getitem__(self, place: tuple[int, int]) -> list[Clip] | list[Failure]:
        os.kill(os.getpid(), self.number)
        return []


def take(batches: Generator[Batch[Target], None, None], count: int) -> list[Batch[Target]]:
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def labels_of(batch: Batch[Target]) -> list[int]:
    assert isinstance(batch.target, Classes)
    return batch.target.index.tolist()


def same(first: Batch[Target], second: Batch[Target]) -> bool:
    tensors = all(torch.equal(getattr(first, n), getattr(second, n)) for n in ("frames", "row", "view"))
    others = [(batch.epoch, batch.failures, labels_of(batch)) for batch in (first, second)]
    return tensors and others[0] == others[1]


def test_an_epoch_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    order = epoch_order(1000, 3, 5)
    assert np.array_equal(np.sort(order), np.arange(1000)) and np.array_equal(order, epoch_order(1000, 3, 5))
    assert not np.array_equal(order, epoch_order(1000, 3, 6)) and not np.array_equal(
        order, epoch_order(1000, 4, 5)
    )


def test_batches_cover_each_epoch_without_its_last_partial_batch() -> None:
    assert TrainingOrder(10, 3, 0).batches_per_epoch == 3 and TrainingOrder(2, 8, 0).batches_per_epoch == 1
    assert TrainingOrder(10, 3, 0, world_size=2).batches_per_epoch == 1
    assert TrainingOrder(10, 2, 0, accumulate=2).batches_per_epoch == 4, "two steps of two batches"
    with pytest.raises(UserError, match="expected at least 1 row, batch size"):
        TrainingOrder(10, 0, 0)
    batches = take(training_batches(Training(), batch_size=3, seed=0), 7)
    assert [batch.epoch for batch in batches] == [0, 0, 0, 1, 1, 1, 2]
    for epoch in range(2):
        rows = torch.cat([batch.row[::2] for batch in batches[3 * epoch : 3 * epoch + 3]])
        assert rows.tolist() == epoch_order(10, 0, epoch)[:9].tolist()
    first = batches[0]
    assert first.view.tolist() == [0, 1] * 3 and first.row[0::2].tolist() == first.row[1::2].tolist(), (
        "views side by side"
    )
    assert labels_of(first) == [row % 3 for row in first.row.tolist()]
    assert first.frames[:, 0, 0, 0, 0].tolist() == (first.row * 10 + first.view).tolist()


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_batches_for_any_number_of_workers(workers: int) -> None:
    dataset = Training(num_rows=23, broken=(4,))
    alone = take(training_batches(dataset, batch_size=4, seed=9), 8)
    together = take(training_batches(dataset, batch_size=4, seed=9, workers=workers), 8)
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))
    assert any(batch.failures for batch in alone)


@pytest.mark.parametrize("start", [1, 2, 5, 6, 11])
def test_starting_at_a_batch_is_the_same_as_getting_there(start: int) -> None:
    dataset = Training(num_rows=11)
    whole = take(training_batches(dataset, batch_size=2, seed=1), 14)
    resumed = take(training_batches(dataset, batch_size=2, seed=1, start_batch=start), 14 - start)
    assert all(same(a, b) for a, b in zip(whole[start:], resumed, strict=True))


@pytest.mark.parametrize("num_rows", [26, 7])
def test_a_step_has_the_same_videos_however_processes_and_forwards_share_it(num_rows: int) -> None:
    def steps(world_size: int, accumulate: int = 1) -> list[list[tuple[int, int]]]:
        batch = 12 // world_size // accumulate
        orders = [
            TrainingOrder(num_rows, batch, 5, 3 * accumulate, rank, world_size, accumulate)
            for rank in range(world_size)
        ]
        per_rank = [list(itertools.islice(iter(order), 6 * accumulate)) for order in orders]
        assert all(len(places) == batch for batches in per_rank for places in batches)
        # In the order of forwards, and in each of ranks.
        merged = [list(itertools.chain(*parts)) for parts in zip(*per_rank, strict=True)]
        return [
            list(itertools.chain(*merged[step * accumulate : (step + 1) * accumulate])) for step in range(6)
        ]

    alone = steps(1)
    assert all(len(set(step)) == 12 for step in alone), "no clip twice"
    assert all(steps(*shares) == alone for shares in ((2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (2, 3)))


def test_a_batch_knows_the_place_of_its_first_video_in_the_epoch() -> None:
    for rank in range(2):
        batches = take(
            training_batches(
                Training(num_rows=14), batch_size=2, seed=0, rank=rank, world_size=2, start_batch=1
            ),
            4,
        )
        assert [(batch.epoch, batch.place) for batch in batches] == [
            (0, 4 + 2 * rank), (0, 8 + 2 * rank), (1, 2 * rank), (1, 4 + 2 * rank),
        ]  # fmt: skip
        assert batches[0].row[::2].tolist() == epoch_order(14, 0, 0)[4 + 2 * rank :][:2].tolist()


def test_fewer_videos_than_a_batch_fill_it_from_later_epochs(caplog: pytest.LogCaptureFixture) -> None:
    places = next(iter(TrainingOrder(3, 8, 0)))
    assert sorted(places) == sorted({(epoch, row) for epoch in range(3) for row in range(3)} & set(places))
    assert len(set(places)) == 8, "the same video again is another crop"
    second = next(iter(TrainingOrder(3, 8, 0, start=1)))
    assert not set(places) & set(second)
    with caplog.at_level(logging.WARNING, logger="videomae2.data.batches"):
        batch = take(training_batches(Training(num_rows=3), batch_size=8, seed=0), 2)[1]
    assert len(batch) == 16 and batch.epoch == 1
    assert "3 videos are fewer than a batch of 8" in caplog.text


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_row_that_repeats_in_a_batch_draws_its_own_mask_each_time(world_size: int) -> None:
    drawn = []
    for rank in range(world_size):
        batch = next(
            training_batches(
                Training(num_rows=3), batch_size=8 // world_size, seed=0, rank=rank, world_size=world_size
            )
        )
        drawn += list(zip(batch.row.tolist(), batch.view.tolist(), strict=True))
    assert len(set(drawn)) == len(drawn) == 16, "masks are drawn by row and view"
    assert {view for _, view in drawn} == set(range(6)) and drawn[0][1] == 0
    keys = chance.keys(7, *(torch.tensor(part) for part in zip(*drawn, strict=True)))
    hidden = draw_split(TokenGrid.square(8, 64, 2, 8), MaskSettings(), keys).visible
    assert len({tuple(row) for row in hidden.tolist()}) == 16


def test_all_broken_stops_at_the_first_batch_and_names_the_first_failures() -> None:
    dataset = Training(num_rows=6, broken=tuple(range(6)))
    for workers in (0, 2):
        batches = training_batches(dataset, batch_size=2, seed=0, workers=workers)
        with pytest.raises(
            UserError,
            match=r"12 of 12 videos tried.*\(100%\), and nothing was left.*row \d, \d.mp4: moov atom not",
        ):
            next(batches)


def test_what_was_replaced_is_counted_once_an_epoch() -> None:
    few = Training(num_rows=40, broken=(3,))
    seen = take(training_batches(few, batch_size=4, seed=0), 30)
    assert sum(len(batch.failures) for batch in seen) == 3, "one in each of the three epochs"
    assert sum(batch.replaced for batch in seen) == 3
    assert all(len(batch) == 8 for batch in seen)


def test_one_failure_is_named_once_in_a_batch() -> None:
    dataset = Training(num_rows=4, broken=(1, 2))
    batch = take(training_batches(dataset, batch_size=4, seed=0), 1)[0]
    assert batch.replaced == 2, "two videos, though one of them was tried twice"
    assert sorted(failure.row for failure in batch.failures) == [1, 2]
    assert batch.row[::2].sort().values.tolist() == [0, 3, 3, 3]


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_an_evaluation_has_the_same_batches_for_any_number_of_processes(world_size: int) -> None:
    def of(rank: int, world_size: int) -> list[list[int]]:
        shares = evaluation_batches(
            Evaluation(num_rows=11, views=1), batch_size=2, rank=rank, world_size=world_size
        )
        return [batch.row.tolist() for batch in shares]

    shared = [batch for rank in range(world_size) for batch in of(rank, world_size)]
    assert sorted(shared) == of(0, 1) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_reads_every_row_exactly_once(workers: int, world_size: int) -> None:
    dataset = Evaluation(num_rows=10, broken=(2, 5, 8), views=3)
    rows, failed = [], []
    for rank in range(world_size):
        for batch in evaluation_batches(
            dataset, batch_size=2, workers=workers, rank=rank, world_size=world_size
        ):
            assert batch.view.tolist() == [0, 1, 2] * (len(batch) // 3)
            assert batch.frames.shape[1:] == (2, 3, 4, 4)
            rows += batch.row[::3].tolist()
            failed += [failure.row for failure in batch.failures]
    assert sorted(rows) == [0, 1, 3, 4, 6, 7, 9] and sorted(failed) == [2, 5, 8]


def test_evaluation_of_broken_rows_alone_gives_empty_batches() -> None:
    batches = list(evaluation_batches(Evaluation(num_rows=3, broken=(0, 1, 2)), batch_size=2))
    assert [batch.frames.shape[0] for batch in batches] == [0, 0]
    assert [failure.row for batch in batches for failure in batch.failures] == [0, 1, 2]


def numpy_numbers() -> np.ndarray:
    """The state of NumPy's global generator."""
    state = np.random.get_state()  # noqa: NPY002
    assert isinstance(state, tuple)
    return np.array(state[1])


def test_no_global_generator_is_touched() -> None:
    torch_state, numpy_state = torch.get_rng_state(), numpy_numbers()
    for workers in (0, 1):
        take(training_batches(Training(), batch_size=2, seed=0, workers=workers), 2)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, numpy_numbers())


def test_closing_the_iterator_ends_its_workers() -> None:
    batches = training_batches(Training(), batch_size=2, seed=0, workers=2)
    next(batches)
    children = torch.multiprocessing.active_children()
    assert len(children) == 2
    batches.close()
    deadline = time.monotonic() + 10
    while torch.multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not torch.multiprocessing.active_children()


def test_workers_outlive_a_stop_meant_for_the_whole_group() -> None:
    batches = training_batches(Training(), batch_size=2, seed=0, workers=1)
    next(batches)
    for child in torch.multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGTERM)
        os.kill(child.pid, signal.SIGINT)
    assert len(take(batches, 5)) == 5


def test_a_killed_worker_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"a loader process was killed \(SIGKILL\).* memory; try fewer"):
        next(training_batches(Dying(), batch_size=2, seed=0, workers=1))


def test_a_death_surfaces_where_its_batch_is_waited_for_and_nowhere_else() -> None:
    batches = training_batches(Training(), batch_size=2, seed=0, workers=1)
    next(batches)
    (worker,) = torch.multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGKILL)
    until = time.monotonic() + 1  # a step, or a checkpoint that is written
    while time.monotonic() < until:
        sum(range(1000))
    with pytest.raises(UserError, match=r"a loader process was killed \(SIGKILL\)"):
        take(batches, 50)


@pytest.mark.parametrize(
    ("number", "named"),
    [
        (
            signal.SIGSEGV,
            r"died of SIGSEGV, most often in the decoding of one video; find it",
        ),
        (signal.SIGBUS, r"died of SIGBUS, most often because /dev/shm is full"),
    ],
)
def test_another_death_is_told_as_what_it_is(
    number: int, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dying, "number", number)
    with pytest.raises(UserError, match=named):
        next(training_batches(Dying(), batch_size=2, seed=0, workers=1))


class Faulty(Training):
    error: Exception = RowError("row 3, 3.mp4: TypeError: no number came")

    def __getitem__(self, place: tuple[int, int]) -> list[Clip] | list[Failure]:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error", [RowError("row 3, 3.mp4: TypeError: no number came"), UserError("stride is 0; try 4")]
)
def test_an_error_of_ours_ends_the_run_with_its_own_line(
    workers: int, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Faulty, "error", error)
    with pytest.raises(type(error)) as caught:
        next(training_batches(Faulty(), batch_size=2, seed=0, workers=workers))
    assert str(caught.value) == str(error)
    assert "__getitem__" in str(caught.value.__cause__), (
        "the traceback of the worker comes along, for --debug"
    )


def test_more_workers_than_cores_is_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    next(training_batches(Training(), batch_size=2, seed=0, workers=3))
    assert not [each for each in recwarn if "DataLoader" in str(each.message)]
