"""Two processes over gloo, wrapped from outside: shaped for many, and the same checkpoint as one process
writes.
"""

import multiprocessing
import os
import sys
from dataclasses import replace

import torch
import torch.distributed as dist

from videomae2.engine import checkpoint
from videomae2.engine import parallel as distributed
from videomae2.engine.loop import train
from videomae2.engine.run import RunFolder
from videomae2.engine.schedule import make_plan
from videomae2.records import ClipBatch
from videomae2.settings import PretrainSettings

from .toys import NUM_ROWS, OPTIM, RUN, Toy, toy_batches, toy_run

FORK = multiprocessing.get_context("fork")
SETTINGS = replace(OPTIM, clip_grad=0.0, accumulate=1)


def test_alone_every_question_has_an_answer():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    flag = torch.tensor(1.0)
    assert distributed.any_true(flag) == 1 and distributed.mean(torch.tensor([2.0])) == 2
    assert distributed.any_process(True, flag.device) and not distributed.any_process(False, flag.device)
    distributed.barrier()


def test_names_lose_what_wrappers_put_into_them():
    assert (
        distributed.bare_name("module._orig_mod.encoder._checkpoint_wrapped_module.norm.weight")
        == "encoder.norm.weight"
    )


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path):
    alone, _ = toy_run(tmp_path / "alone", optim=SETTINGS, task=Toy(dropout=0.0), evaluate=None)
    processes = [FORK.Process(target=half, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    together = checkpoint.load_model_state(tmp_path / "two")
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(together[name], parameter, rtol=1e-4, atol=1e-5)


def half(rank, folder):
    """One of two processes: half of each batch of the run alone."""
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    task = torch.nn.parallel.DistributedDataParallel(Toy(dropout=0.0))
    optim = replace(SETTINGS, batch_size=2)

    def batches(start):
        for batch in toy_batches(4)(start):
            mine = slice(2 * rank, 2 * rank + 2)
            yield ClipBatch(batch.frames[mine], batch.row[mine], batch.view[mine], batch.label[mine])

    out = folder / "two"
    run_folder = (
        RunFolder.create_or_resume(out, PretrainSettings())
        if rank == 0
        else RunFolder(out, PretrainSettings())
    )
    dist.barrier()
    train(task, batches, make_plan(optim, RUN, NUM_ROWS, world_size=2), optim, RUN, run_folder)
    dist.destroy_process_group()
