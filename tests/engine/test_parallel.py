"""What the engine asks about other processes, answered where there are none (two: `tests/recipes`)."""

import torch
from torch import nn

from videomae2.engine import parallel


def test_alone_every_question_has_an_answer() -> None:
    assert (parallel.rank(), parallel.world_size(), parallel.is_main()) == (0, 1, True)
    flag = torch.tensor(1.0)
    assert parallel.any_true(flag) == 1 and parallel.mean(torch.tensor([2.0])) == 2
    assert parallel.summed([1, 2]) == parallel.greatest([1, 2]) == [1, 2]
    parallel.barrier()


def test_names_lose_what_wrappers_put_into_them() -> None:
    assert (
        parallel.bare_name("module._orig_mod.encoder._checkpoint_wrapped_module.norm.weight")
        == "encoder.norm.weight"
    )


def test_one_process_wraps_nothing_and_shares_nothing() -> None:
    network = nn.Linear(2, 2)
    assert all(
        parallel.distribute(network, shard, "bf16", torch.device("cpu")) is network
        for shard in ("none", "grad", "full")
    )
    assert parallel.building_device("full") == "cpu"
    assert parallel.all_objects("mine") == ["mine"]
    assert list(parallel.in_step([1, 2], network, 0)) == [(1, True), (2, True)]
    with parallel.exchanging(network, False):
        network(torch.ones(1, 2)).sum().backward()
    assert network.weight.grad is not None and parallel.whole(network.weight) is network.weight
