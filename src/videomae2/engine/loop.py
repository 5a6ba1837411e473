"""The loop: it knows a task, not a method, and leaves a folder from which any run goes on exactly."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from videomae2.engine import checkpoint, parallel, state
from videomae2.engine.average import build_average
from videomae2.engine.device import autocast, choose_device, keep_freed_memory, precision_note
from videomae2.engine.log import RunLog
from videomae2.engine.optim import build_optimizer
from videomae2.engine.run import Best, Result, read_result, write_result
from videomae2.engine.schedule import learning_rate
from videomae2.engine.signals import StopRequest
from videomae2.engine.step import Stepper, StepSums
from videomae2.engine.task import Job, Task
from videomae2.errors import Stopped
from videomae2.records import Batch


def train(task: Task, job: Job) -> Result:
    """Train a task to the end of its plan, from the newest checkpoint of its folder if there is one.

    Evaluations run when the plan says so, and again with the averaged weights, whose numbers get the prefix
    "ema_". On a CPU in fp32 an interrupted and resumed run ends with the same bits as an uninterrupted one.

    Raises Stopped after saving, when SIGTERM or SIGINT came; RunStopped when training diverged; UserError for
    a full disk, a broken loader, or a checkpoint of another architecture.
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
        quiet=quiet,
    )
    with run_log as log, StopRequest() as stop:
        if note := precision_note(trainer.device, job.run.precision):
            log.say(note)
        log.say(
            job.plan.describe()
            if resumed is None
            else f"resuming {job.folder} after step {resumed} of {job.plan.steps}"
        )
        trainer.go(log, stop)
        weights = state.export(trainer.network, trainer.average)
        if not quiet:
            job.finish(weights)
    newest = job.folder.checkpoints / f"step-{trainer.step}"
    result = Result(job.folder.path, trainer.step, newest, trainer.metrics, trainer.best, resumed)
    if not quiet:
        write_result(job.folder, result)
    return result


def prepare(task: Task, job: Job, device: torch.device) -> nn.Module:
    """The task's network as it is trained: on the device, and wrapped in the one documented order.

    CPU kernels, activation checkpointing (which the network's own settings switch on), compile, then DDP or
    FSDP2. Each wraps what the ones before it left, so no other order gives every one of them an ordinary
    module.
    """
    network = task.network.to(device)
    if device.type == "cpu":
        keep_freed_memory()
        network = job.kernels(network)
    if job.run.compile:
        network.compile()  # in place: it renames no parameter
    return (job.wrap or parallel.replicate)(network)


class _Trainer:
    """The state of a run between two steps, and the four bands of the loop: evaluate, save, step, log."""

    def __init__(self, task: Task, job: Job) -> None:
        self.task, self.job, self.plan = task, job, job.plan
        self.device = choose_device(job.run.device)
        self.network = prepare(task, job, self.device)
        self.optimizer = build_optimizer(self.network, job.optim)
        self.average = build_average(self.network, job.optim.ema_decay)
        self.stepper = Stepper(task, self.network, self.optimizer, job.optim, job.run, self.device)
        self.step = 0
        self.evaluated_at = self.saved_at = -1
        self.metrics: dict[str, float] = {}
        self.best: Best | None = None
        if parallel.is_main():
            job.folder.write_config(job.plan.describe())

    def go(self, log: RunLog, stop: StopRequest) -> None:
        stream: Iterator[Batch[Any]] | None = None
        self.clock = time.perf_counter()
        try:
            while True:
                # ── evaluate ──
                if self._evaluation_due() and self.evaluated_at != self.step:
                    self._evaluate(log)
                # ── save ──
                if self._save_due() and self.saved_at != self.step:
                    self._save()
                if self.step == self.plan.steps:
                    return
                if self._stopping(stop):  # asked while it evaluated or saved
                    self._leave(log, stop)
                # ── step ──
                stream = stream or self.job.batches(self.step * self.plan.accumulate)
                self._step(stream)
                # ── log ──
                if self._log_due():
                    self._log(log)
                log.advance(self.step)
                if self._stopping(stop):
                    self._leave(log, stop)
        finally:
            if stream is not None and hasattr(stream, "close"):
                stream.close()

    def resume(self) -> int | None:
        """Take up the newest usable checkpoint; the step it was made after, or None for a fresh start."""
        path = checkpoint.latest(self.job.folder.checkpoints)
        if path is None:
            return None
        kept = checkpoint.read_state(path)
        self.plan.must_equal(kept["plan"], str(path))
        state.fill(path, self.network, self.optimizer, self.average)
        if self.average is not None:
            self.average.updates = kept["averaged"]
        self.stepper.restore(kept["counts"])
        self.step = self.saved_at = kept["step"]
        self.evaluated_at, self.metrics = kept["evaluated_at"], kept["metrics"]
        self.best = Best(**kept["best"]) if kept["best"] else None
        self._tidy()
        return self.step

    def _evaluate(self, log: RunLog) -> None:
        values = self._judge()
        if self.average is not None:
            with self.average.swapped_in(self.network):
                values |= {f"ema_{name}": value for name, value in self._judge().items()}
        self.metrics, self.evaluated_at = values, self.step
        self._note_best()
        log.evaluation(self.step, self.plan.epoch(self.step), values)
        self.clock = time.perf_counter()

    def _judge(self) -> dict[str, float]:
        self.network.eval()
        with torch.no_grad(), autocast(self.device, self.job.run.precision):
            found = self.task.evaluate(self.network)
        parallel.reshard(self.network)
        return {name: float(value) for name, value in found.items()}

    def _note_best(self) -> None:
        metric = self.job.best
        if metric is None:
            return
        sign = 1 if metric.higher_is_better else -1
        for key in (metric.name, f"ema_{metric.name}"):
            if key in self.metrics and (
                self.best is None or sign * self.metrics[key] > sign * self.best.value
            ):
                self.best = Best(key, self.metrics[key], self.step)

    def _save(self) -> None:
        kept = {
            "plan": self.plan.fixed(),
            "evaluated_at": self.evaluated_at,
            "metrics": self.metrics,
            "best": asdict(self.best) if self.best else None,
            "counts": self.stepper.state(),
            "averaged": self.average.updates if self.average else 0,
            "about": dict(self.job.about or {}),
        }
        tensors = state.gather(self.network, self.optimizer, self.average)
        checkpoint.save_checkpoint(self.job.folder.checkpoints, tensors, kept, self.step)
        self.saved_at = self.step
        self._tidy()
        self.clock = time.perf_counter()

    def _tidy(self) -> None:
        best = self.best.step if self.best else None
        checkpoint.keep(self.job.folder.checkpoints, self.job.run.keep_last, best)

    def _step(self, stream: Iterator[Batch[Any]]) -> None:
        self.stepper.take(self.step, learning_rate(self.plan, self.step), stream)
        if self.average is not None:
            self.average.update()
        self.step += 1
        if self.device.type == "cpu":
            self.stepper.check(self.step)

    def _log(self, log: RunLog) -> None:
        window, self.stepper.window = self.stepper.window, StepSums()
        means = window.means()
        self.stepper.check(self.step)
        seconds, self.clock = time.perf_counter() - self.clock, time.perf_counter()
        log.failures(window.failures)
        log.train(
            {
                "step": self.step,
                "epoch": self.plan.epoch(self.step),
                "loss": means.pop("loss", None),
                "lr": learning_rate(self.plan, self.step - 1),
                **means,
                "clips_per_second": window.clips * parallel.world_size() / max(seconds, 1e-9),
                "seconds_left": seconds / max(1, window.steps) * (self.plan.steps - self.step),
                "skipped": int(self.stepper.state()["skipped"]),
            }
        )

    def _leave(self, log: RunLog, stop: StopRequest) -> None:
        if self.stepper.window.steps:
            self._log(log)
        if self.saved_at != self.step:
            self._save()
        raise Stopped(
            f"stopped after step {self.step} of {self.plan.steps}, saved in {self.job.folder}; the same "
            "command "
            f"goes on from there",
            stop.number,
        )

    def _stopping(self, stop: StopRequest) -> bool:
        if parallel.in_group() and not self._log_due():
            return False  # Processes agree on stopping only when they meet to log.
        return parallel.any_process(bool(stop.number), self.device)

    def _evaluation_due(self) -> bool:
        every = self.plan.evaluate_every
        return self.job.evaluates and every > 0 and self.plan.is_due(every, self.step)

    def _save_due(self) -> bool:
        new_best = self.best is not None and self.best.step == self.step
        return new_best or self.plan.is_due(self.plan.checkpoint_every, self.step)

    def _log_due(self) -> bool:
        # Also before an evaluation or a checkpoint, so that no part of a mean is lost to a resume.
        due = self.plan.is_due(self.job.run.log_every, self.step)
        return due or self._save_due() or self._evaluation_due()
