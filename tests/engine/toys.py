"""A toy task with everything that could break exactness: dropout, several groups, metrics, a mask token."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videomae2 import chance
from videomae2.engine import checkpoint
from videomae2.engine.loop import train
from videomae2.engine.run import Metric, Result, RunFolder
from videomae2.engine.schedule import Plan, make_plan
from videomae2.engine.task import Job
from videomae2.labels import Unlabelled
from videomae2.records import Batch, Failure, StepOutput
from videomae2.settings import OptimSettings, PretrainSettings, RunSettings

NUM_ROWS = 12


class Brightness(nn.Module):
    """Predicts a clip's brightness through a dropout."""

    def __init__(self, width: int = 8, dropout: float = 0.5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.encoder = nn.Sequential(
            nn.Linear(48, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1)
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, values: Tensor) -> Tensor:
        """Brightness [B] of flattened clips [B, 48]."""
        predicted: Tensor = self.encoder(values)[:, 0] + self.mask_token.mean()
        return predicted


class Toy:
    """A task that loses nothing of what a real one hands the loop."""

    def __init__(
        self, width: int = 8, dropout: float = 0.5, score: Callable[[nn.Module], float] | None = None
    ) -> None:
        self.network = Brightness(width, dropout)
        self.score = score or brightness_score

    def step(self, network: nn.Module, batch: Batch[Any], step: int) -> StepOutput:  # noqa: ARG002 - a task
        """The squared error of the brightness."""
        values = batch.frames.flatten(1).float() / 255
        error = network(values) - values.mean(1)
        return StepOutput((error**2).mean(), {"bias": error.detach().mean()})

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """A number that rises as the toy learns."""
        return {"score": self.score(network)}


def brightness_score(network: nn.Module) -> float:
    """Minus the squared error on a batch of its own."""
    batch = next(toy_batches(16)(10_000))
    values = batch.frames.flatten(1).float() / 255
    return -float(((network(values) - values.mean(1)) ** 2).mean())


def toy_batches(batch_size: int, failing: bool = False) -> Callable[[int], Iterator[Batch[Any]]]:
    """Batches that are a function of their number alone."""

    def batches(start: int) -> Iterator[Batch[Any]]:
        number = start
        while True:
            generator = chance.torch_generator(chance.key(1, "toy", number))
            frames = torch.randint(0, 256, (batch_size, 1, 3, 4, 4), dtype=torch.uint8, generator=generator)
            rows = torch.arange(batch_size)
            failures = (Failure(5, "broken.mp4", "no frames"),) if failing else ()
            yield Batch(
                frames,
                rows,
                torch.zeros_like(rows),
                Unlabelled(batch_size),
                number * batch_size // NUM_ROWS,
                failures,
            )
            number += 1

    return batches


OPTIM = OptimSettings(
    base_lr=0.5,
    min_lr=0.01,
    batch_size=4,
    accumulate=2,
    length=14,
    warmup=3,
    clip_grad=0.5,
    ema_decay=0.8,
    layer_decay=0.9,
)
RUN = RunSettings(
    precision="fp32", device="cpu", checkpoint_every=5, evaluate_every=4, log_every=3, tensorboard=False
)


def plan_of(optim: OptimSettings, run: RunSettings, num_rows: int = NUM_ROWS) -> Plan:
    """The schedule of the toy manifest."""
    return make_plan(optim, run, num_rows)


def toy_run(
    out: Path,
    optim: OptimSettings = OPTIM,
    run: RunSettings = RUN,
    task: Toy | None = None,
    num_rows: int = NUM_ROWS,
    **others: Any,
) -> tuple[nn.Module, Result]:
    """Train a toy in a folder, to the end or on from where it was; its network and the result."""
    task = Toy() if task is None else task
    folder = RunFolder.create_or_resume(out, PretrainSettings(optim=optim, run=run))
    usual: dict[str, Any] = {
        "name": "toy",
        "batches": toy_batches(optim.batch_size),
        "plan": plan_of(optim, run, num_rows),
        "best": Metric("score"),
        "evaluates": True,
    }
    job = Job(**(usual | others), optim=optim, run=run, folder=folder)
    return task.network, train(task, job)


def same_tensors(first: Path, second: Path) -> bool:
    """Whether the last checkpoints of two runs hold the same bits: weights, averaged weights, optimizer."""
    ours, theirs = (all_tensors(run) for run in (first, second))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def all_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's last checkpoint."""
    path = checkpoint.find(run)
    entries = checkpoint.tensor_names(path)
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    checkpoint.load_tensors(path, tensors)
    return {"step": torch.tensor(checkpoint.step_of(path)), **tensors}


def sum_again(path: Path) -> None:
    """Give a checkpoint that was changed the sums of what it has now."""
    sums = path / checkpoint.SUMS
    names = [line.partition("  ")[2] for line in sums.read_text().splitlines()]
    sums.write_text("".join(f"{sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in names))


def without_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Log lines less what a clock measured."""
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]
