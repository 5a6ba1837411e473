"""How a process learns of the others: torchrun, Slurm, and what dead processes have left behind."""

import threading
from datetime import timedelta

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from videomae2.engine import launch
from videomae2.engine.launch import Launch, common_name, first_host, launch_of
from videomae2.errors import UserError

TORCHRUN = {
    "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node7", "MASTER_PORT": "29500",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[012-013]",
}  # fmt: skip


def test_torchrun_names_rank_and_place() -> None:
    assert launch_of(TORCHRUN) == Launch(3, 4, 1, "node7", 29500)
    assert launch_of({**TORCHRUN, **SRUN}) == Launch(3, 4, 1, "node7", 29500), "torchrun under srun"
    assert launch_of({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) is None
    assert launch_of({}) is None


def test_srun_names_rank_and_place() -> None:
    found = launch_of(SRUN)
    assert found is not None and found.by_slurm
    assert (found.rank, found.world_size, found.local_rank, found.address) == (5, 8, 1, "gpu012")
    assert 20_000 <= found.port < 40_000 and found.port == launch_of({**SRUN, "SLURM_PROCID": "0"}).port  # type: ignore[union-attr]
    other = launch_of({**SRUN, "SLURM_STEP_ID": "1"})
    assert other is not None and other.port != found.port
    asked = launch_of({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert asked is not None and (asked.address, asked.port) == ("10.0.0.1", 4000)


def test_a_batch_script_is_one_process_however_many_tasks_its_job_has() -> None:
    assert launch_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu[1-2]"}) is None


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("gpu[012-015,020],cpu1", "gpu012"), ("a1,a2", "a1"), ("r[0-3]n[7,9]-ib", "r0n7-ib"), ("n5", "n5")],
)
def test_the_first_host_of_a_node_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, "expected MASTER_ADDR in the environment.* start with torchrun"),
        ({**TORCHRUN, "RANK": "one"}, "expected a number in the environment's RANK, got 'one'"),
        ({**SRUN, "SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST, got none; set MASTER_ADDR"),
    ],
)
def test_half_an_environment_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        launch_of(environment)


def test_the_living_agree_on_a_name_whatever_the_dead_have_left() -> None:
    """Three starts in one store; of the first two, some died at every stage of their agreement."""
    store = HashStore()
    store.set_timeout(timedelta(seconds=20))
    store.set("videomae2/asks/1", "a word of a process that died before it was answered")
    names: list[str] = []
    for world_size in (3, 2, 3):
        found: list[str] = []

        def meet(rank: int, world_size: int = world_size, found: list[str] = found) -> None:
            found.append(common_name(store, rank, world_size))

        threads = [threading.Thread(target=meet, args=(rank,)) for rank in reversed(range(world_size))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(found) == world_size and len(set(found)) == 1
        names += found[:1]
    assert len(set(names)) == 3


def test_who_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MEET_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"expected 3 processes, got none of rank 1, 2 in 0 s"):
        common_name(HashStore(), 0, 3)
