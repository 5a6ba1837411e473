"""The training loop: it knows the `Task` interface and no method, and resumes any run exactly."""

import contextlib
import math
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from videomae2.engine import checkpoint, parallel, state
from videomae2.engine.device import autocast, choose_device, device_name, keep_freed_memory, precision_note
from videomae2.engine.log import TIMED_STEPS, RunLog
from videomae2.engine.optim import build_optimizer
from videomae2.engine.run import (
    Abandoned,
    Best,
    Result,
    StopRequest,
    as_json,
    from_json,
    read_result,
    write_result,
)
from videomae2.engine.schedule import learning_rate
from videomae2.engine.state import build_average
from videomae2.engine.step import Stepper, StepSums
from videomae2.engine.supply import Supply
from videomae2.engine.task import Job, Task
from videomae2.errors import Stopped, UserError


def train(task: Task, job: Job) -> Result:
    """Train a task to the end of its plan, from the newest checkpoint of its folder if there is one.

    Each evaluation runs with the trained weights and then with the averaged ones, whose metrics get the
    prefix "ema_". On a CPU in fp32 a resumed run ends with the same bits as an uninterrupted one.

    Stopped, after saving, on SIGTERM or SIGINT; RunStopped where training diverged; UserError for a full
    disk, a loader that failed, or a checkpoint of another architecture.
    """
    quiet = not parallel.is_main()
    if job.folder.finished is not None:
        result = read_result(job.folder)
        if not quiet:
            sys.stderr.write(
                f"{job.folder} holds this run, finished after step {result.step}; nothing is left to do\n"
            )
        return result
    trainer = _Trainer(task, job)
    resumed = trainer.resume()
    run_log = RunLog(
        job.folder,
        trainer.step,
        job.plan.steps,
        name=job.name,
        tensorboard=job.run.tensorboard,
        on_cpu=trainer.device.type == "cpu",
        quiet=quiet,
    )
    with run_log as log, StopRequest(quiet) as stop:
        log.say(trainer.describe())
        if note := precision_note(trainer.device, job.run.precision):
            log.say(note)
        log.say(
            job.plan.describe()
            if resumed is None
            else f"resuming {job.folder} after step {resumed} of {job.plan.steps}"
        )
        for line in trainer.damage:
            log.note(trainer.step, line)
        trainer.go(log, stop)
        weights = state.export(trainer.network, trainer.average)
        # The others wait: whoever reads the weights next, on whatever rank, finds them whole.
        parallel.on_main(lambda: job.finish(weights))
    newest = job.folder.checkpoints / f"step-{trainer.step}"
    result = Result(job.folder.path, trainer.step, newest, trainer.metrics, trainer.best, resumed)
    parallel.on_main(lambda: write_result(job.folder, result, trainer.how()))
    return result


def prepare(task: Task, job: Job, device: torch.device) -> nn.Module:
    """The task's network on the device, wrapped: CPU kernels, then compile, then DDP or FSDP2.

    Activation checkpointing comes before compile; the network's own settings switch it on. In a group a
    network is always wrapped: ranks that train alone, each on its part of the data, cannot be.
    """
    # The order matters. The kernels replace modules, which works only on ordinary ones; compile must trace
    # what they left; DDP and FSDP2 put hooks on the outermost module, which a graph could not contain.
    network = task.network
    # On the meta device, where a rank gets its shards from another one, there is nothing to move yet.
    if not any(parameter.is_meta for parameter in network.parameters()):
        network = network.to(device)
    if device.type == "cpu":
        keep_freed_memory()
        network = job.kernels(network)
    if job.run.compile:
        # In place, where `torch.compile` would add a prefix to every parameter name. Block by block where
        # FSDP2 gathers them one by one: a graph of the whole network would break at every block.
        sharded = parallel.in_group() and job.run.shard != "none"
        for part in parallel.blocks_of(network) if sharded else [network]:
            part.compile()
    return parallel.distribute(network, job.run.shard, job.run.precision, device)


class _Trainer:
    """The state of a run between two steps, and the four parts of the loop: evaluate, save, step, log."""

    def __init__(self, task: Task, job: Job) -> None:
        self.task, self.job, self.plan = task, job, job.plan
        self.device = choose_device(job.run.device)
        self.network = prepare(task, job, self.device)
        self.optimizer = build_optimizer(self.network, job.optim)
        self.average = build_average(self.network, job.optim.ema_decay)
        self.stepper = Stepper(task, self.network, self.optimizer, job.optim, job.run, self.device)
        self.step = 0
        # The steps of the last evaluation and checkpoint: a resumed run repeats neither at its first step.
        self.evaluated_at = self.saved_at = -1
        self.metrics: dict[str, float] = {}
        self.best: Best | None = None
        self.began = time.monotonic()
        self.late = False  # whether a checkpoint is due by the clock
        self.first = 0  # the step at which this start began
        self.damage: list[str] = []  # a sentence for each checkpoint that was skipped as damaged
        parallel.on_main(lambda: job.folder.write_config(job.plan.describe()))

    def how(self) -> dict[str, Any]:
        """How it went, for its report: seconds of all its starts, device and versions of the last."""
        return {
            "seconds": round(time.monotonic() - self.began, 1),
            "device": device_name(self.device),
            "processes": parallel.world_size(),
            "versions": {name: _version(name) for name in ("videomae2", "torch")},
        }

    def go(self, log: RunLog, stop: StopRequest) -> None:
        """Train until the plan ends."""
        # Evaluation comes before saving, so that a checkpoint holds its own metrics and the best one is known
        # when old checkpoints are removed. Both come before the step: a run that was killed in an evaluation
        # at its last step evaluates and saves when it is resumed, although no step is left.
        job, first = self.job, self.step * self.plan.accumulate
        supply = Supply(lambda: job.batches(first), self.plan, job.max_broken, stop, log.failures)
        self.clock = time.perf_counter()
        try:
            while True:
                # ── evaluate ──
                pausing = False
                if self._evaluation_due() and self.evaluated_at != self.step:
                    with log.paused():
                        self._evaluate(log, stop, supply)
                    pausing = True
                # ── save ──
                if self._save_due() and self.saved_at != self.step:
                    with log.paused():
                        self._save()
                    supply.saved()
                    pausing = True
                if self.step == self.plan.steps:
                    return
                if pausing:  # a signal may have come meanwhile
                    supply.agree_on_stop()
                if supply.stopping:
                    self._leave(log, supply)
                # ── step ──
                self._step(supply)
                self.late = supply.saving
                # ── log ──
                if self._log_due():
                    self._log(log, supply)
                log.advance(self.step)
                if supply.stopping:
                    self._leave(log, supply)
        finally:
            supply.close()

    def resume(self) -> int | None:
        """Load the newest undamaged checkpoint and return its step; None for a fresh start."""
        # Verified on one rank, since all of it is read, and so that all ranks resume from the same one.
        found: list[Path | None] = []
        parallel.on_main(
            lambda: found.append(checkpoint.latest(self.job.folder.checkpoints, tell=self.damage.append))
        )
        path = parallel.all_objects(found[0] if found else None)[0]
        if path is None:
            return None
        kept = checkpoint.read_state(path)
        self.plan.must_equal(kept["plan"], str(path))
        _must_be_same_data(kept.get("identity", {}), self.job.identity, str(path))
        state.fill(path, self.network, self.optimizer, self.average)
        if self.average is not None:
            self.average.updates = kept["averaged"]
        self.stepper.restore(kept["counts"])
        self.step = self.first = self.saved_at = kept["step"]
        self.evaluated_at, self.metrics = kept["evaluated_at"], from_json(kept["metrics"])
        # As if this start had begun so much earlier; what a kill cost after the checkpoint is not counted.
        self.began -= kept.get("seconds", 0.0)
        self.best = Best(**kept["best"]) if kept["best"] else None
        if parallel.is_main():
            checkpoint.sweep(self.job.folder.checkpoints)
        return self.step

    def describe(self) -> str:
        """What a start says: what is trained, where, from what, and whether anything is validated."""
        job, count = self.job, sum(parameter.numel() for parameter in self.network.parameters())
        where = f"{device_name(self.device)}, {job.run.precision}"
        if parallel.in_group():
            where = f"{parallel.world_size()} processes, each {where}"
        validated = "" if job.evaluates else "; nothing is validated, as there is no --data.val"
        return f"{job.name} on {where}: {count / 1e6:.3g} million parameters, {job.origin}{validated}"

    def _evaluate(self, log: RunLog, stop: StopRequest, supply: Supply) -> None:
        # Left out where the run is to stop, since it is repeated on resume. Not by several ranks, which would
        # have to agree on it after each batch. Only while a network is evaluated, never while its weights
        # and their average change places.
        def leaving() -> AbstractContextManager[None]:
            if parallel.in_group():
                return contextlib.nullcontext()
            return stop.abandoning("stopping now; the evaluation is repeated on resume")

        try:
            with leaving():
                values = self._metrics_of_network()
            if self.average is not None:
                with self.average.swapped_in(self.network), leaving():
                    values |= {f"ema_{name}": value for name, value in self._metrics_of_network().items()}
        except Abandoned:
            self._leave(log, supply)
        self.metrics, self.evaluated_at = values, self.step
        self._note_best()
        parallel.on_main(lambda: log.evaluation(self.step, self.plan.epoch(self.step), values))
        self.clock = time.perf_counter()  # clips per second are of training alone

    def _metrics_of_network(self) -> dict[str, float]:
        self.network.eval()
        with torch.no_grad(), autocast(self.device, self.job.run.precision):
            found = self.task.evaluate(self.network)
        # No backward follows that would free the parameters an FSDP2 root has gathered.
        parallel.reshard(self.network)
        return {name: float(value) for name, value in found.items()}

    def _note_best(self) -> None:
        metric = self.job.best
        if metric is None:
            return
        sign = 1 if metric.higher_is_better else -1
        for key in (metric.name, f"ema_{metric.name}"):
            value = self.metrics.get(key, math.nan)  # NaN is above nothing and below nothing: never the best
            if math.isfinite(value) and (self.best is None or sign * value > sign * self.best.value):
                self.best = Best(key, value, self.step)

    def _save(self) -> None:
        kept = {
            "plan": self.plan.fixed(),
            "evaluated_at": self.evaluated_at,
            "metrics": as_json(self.metrics),
            "best": asdict(self.best) if self.best else None,
            "counts": self.stepper.state(),
            "seconds": time.monotonic() - self.began,
            "averaged": self.average.updates if self.average else 0,
            # So that a checkpoint alone, copied out of its run, says which network it holds.
            "about": dict(self.job.about or {}),
            "identity": dict(self.job.identity),
        }
        tensors = state.gather(self.network, self.optimizer, self.average)
        checkpoint.save_checkpoint(self.job.folder.checkpoints, tensors, kept, self.step)
        self.saved_at, self.late = self.step, False
        # Only now that this one is complete.
        best = self.best.step if self.best else None
        checkpoint.keep(self.job.folder.checkpoints, self.job.run.keep_last, best, self.step)
        self.clock = time.perf_counter()

    def _step(self, supply: Supply) -> None:
        self.stepper.take(self.step, learning_rate(self.plan, self.step), supply)
        if self.average is not None:
            self.average.update()
        self.step += 1
        # On a CPU the counts are at hand, so a run that diverged ends at once; elsewhere when it logs. The
        # first steps wait for the device too: from their time the duration of the run is told.
        if self.device.type == "cpu" or self.step - self.first <= TIMED_STEPS:
            self.stepper.check(self.step)

    def _log(self, log: RunLog, supply: Supply) -> None:
        # The means are read before the counts, and in this order on every rank: both wait for the device.
        window, self.stepper.window = self.stepper.window, StepSums()
        means = window.means()
        self.stepper.check(self.step)
        seconds, self.clock = time.perf_counter() - self.clock, time.perf_counter()
        supply.report()
        line = {
            "step": self.step,
            "epoch": self.plan.epoch(self.step),
            "loss": means.pop("loss", None),
            "lr": learning_rate(self.plan, self.step - 1),
            **means,
            "clips_per_second": window.clips * parallel.world_size() / max(seconds, 1e-9),
            "seconds_left": log.pace and log.pace * (self.plan.steps - self.step),
            "skipped": int(self.stepper.state()["skipped"]),
        }
        # Not on rank 0 alone: that its disk is full, all must learn.
        parallel.on_main(lambda: log.train(line))

    def _leave(self, log: RunLog, supply: Supply) -> NoReturn:
        if self.stepper.window.steps:
            self._log(log, supply)
        if self.saved_at != self.step:
            self._save()
        raise Stopped(
            f"stopped after step {self.step} of {self.plan.steps}, saved in {self.job.folder}; "
            "run the same command to resume",
            supply.stopping,
        )

    def _evaluation_due(self) -> bool:
        every = self.plan.evaluate_every
        return self.job.evaluates and every > 0 and self.plan.is_due(every, self.step)

    def _save_due(self) -> bool:
        # Also at a new best evaluation: the best checkpoint must hold the weights that were evaluated.
        new_best = self.best is not None and self.best.step == self.step
        return new_best or self.late or self.plan.is_due(self.plan.checkpoint_every, self.step)

    def _log_due(self) -> bool:
        # Also before an evaluation or a checkpoint: the sums are not in a checkpoint, so a resume would lose
        # the part of a mean from before it.
        due = self.plan.is_due(self.job.run.log_every, self.step)
        return due or self._save_due() or self._evaluation_due()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree that was never installed
        return "unknown"


def _must_be_same_data(there: Mapping[str, Any], here: Mapping[str, Any], where: str) -> None:
    """UserError, naming what differs, where a checkpoint was trained on other data than this run has now."""
    for key, value in here.items():
        kept = there.get(key, value)  # absent in checkpoints that were written before it was kept
        if kept == value:
            continue
        expected, got = _first_difference(kept, value) if isinstance(value, list) else (kept, value)
        raise UserError(
            f"{where} was trained on other data: expected {key} {expected!r}, got {got!r}; restore the list "
            "to "
            f"resume, or give another --out"
        )


def _first_difference(there: list[Any], here: list[Any]) -> tuple[Any, Any]:
    """The first entries in which two lists differ; where one is the longer, their lengths."""
    for expected, got in zip(there, here, strict=False):
        if expected != got:
            return expected, got
    return f"of {len(there)} entries", f"of {len(here)} entries"
