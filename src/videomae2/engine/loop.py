"""The loop: it knows a task, not a method, and leaves a folder from which any run goes on exactly."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch
from torch import nn

from videomae2.engine import checkpoint
from videomae2.engine import parallel as distributed
from videomae2.engine.average import build_average
from videomae2.engine.device import autocast, choose_device, precision_note
from videomae2.engine.heap import keep_freed_memory
from videomae2.engine.log import RunLog
from videomae2.engine.optim import build_optimizer
from videomae2.engine.result import Best, Result, read_result, write_result
from videomae2.engine.run import RunFolder
from videomae2.engine.schedule import Plan, learning_rate
from videomae2.engine.signals import StopRequest
from videomae2.engine.state import fill, gather
from videomae2.engine.step import Stepper, Window
from videomae2.errors import Stopped
from videomae2.records import ClipBatch
from videomae2.settings import OptimSettings, RunSettings

Batches = Callable[[int], Iterator[ClipBatch]]
"""From the number of the first batch, this process's batches from there on, without end."""
Evaluate = Callable[[nn.Module], dict[str, float]]
"""From the task, in evaluation mode and without gradients, the numbers to log."""


def train(  # noqa: PLR0917
    task: nn.Module,
    batches: Batches,
    plan: Plan,
    optim: OptimSettings,
    run: RunSettings,
    folder: RunFolder,
    evaluate: Evaluate | None = None,
    *,
    best_metric: str = "",
    maximise: bool = True,
    on_finish: Callable[[nn.Module, nn.Module | None], None] | None = None,
    name: str = "train",
) -> Result:
    """Train a task to the end of its plan, from the newest checkpoint of its folder if there is one.

    task: forward(batch, step) -> StepOutput. `evaluate` runs when the plan says so, and again for averaged
    weights, whose numbers get the prefix "ema_". `best_metric` names the number whose best checkpoint is
    kept. `on_finish` gets the task and the averaged one (None without) before the run is marked finished. On
    a CPU in fp32 an interrupted and resumed run ends with the same bits as an uninterrupted one.

    Raises Stopped after saving, when SIGTERM or SIGINT came; RunStopped when training diverged; UserError for
    a full disk, a broken loader, or a checkpoint of another architecture.
    """
    quiet = not distributed.is_main()
    if folder.finished is not None:
        result = read_result(folder)
        if not quiet:
            sys.stderr.write(
                f"{folder} holds this run, finished after step {result.step}; nothing is left to do\n"
            )
        return result
    trainer = _Trainer(task, plan, optim, run, folder)
    trainer.evaluate, trainer.best_metric, trainer.maximise = evaluate, best_metric, maximise
    resumed = trainer.resume()
    run_log = RunLog(folder, trainer.step, plan.steps, name=name, tensorboard=run.tensorboard, quiet=quiet)
    with run_log as log, StopRequest() as stop:
        if note := precision_note(trainer.device, run.precision):
            log.say(note)
        log.say(
            plan.describe() if resumed is None else f"resuming {folder} after step {resumed} of {plan.steps}"
        )
        trainer.go(batches, log, stop)
        if on_finish is not None and not quiet:
            on_finish(task, trainer.average.module if trainer.average else None)
    newest = folder.checkpoints / f"step-{trainer.step}"
    result = Result(folder.path, trainer.step, newest, trainer.metrics, trainer.best, resumed)
    if not quiet:
        write_result(folder, result)
    return result


class _Trainer:
    """The state of a run between two steps, and the four bands of the loop: evaluate, save, step, log."""

    def __init__(
        self, task: nn.Module, plan: Plan, optim: OptimSettings, run: RunSettings, folder: RunFolder
    ) -> None:
        self.device = choose_device(run.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.task = task.to(self.device)
        self.plan, self.run, self.folder = plan, run, folder
        self.optimizer = build_optimizer(task, optim)
        self.average = build_average(task, optim.ema_decay)
        self.stepper = Stepper(task, self.optimizer, optim, run, self.device)
        self.evaluate: Evaluate | None = None
        self.best_metric, self.maximise = "", True
        self.step = 0
        self.evaluated_at = self.saved_at = -1
        self.metrics: dict[str, float] = {}
        self.best: Best | None = None
        if run.compile:
            task.compile()  # In place: it renames no parameter.
        if distributed.is_main():
            folder.write_config(plan.describe())

    def go(self, batches: Batches, log: RunLog, stop: StopRequest) -> None:
        stream: Iterator[ClipBatch] | None = None
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
                stream = stream or batches(self.step * self.plan.accumulate)
                self._step(stream, stop)
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
        path = checkpoint.latest(self.folder.checkpoints)
        if path is None:
            return None
        state = checkpoint.read_state(path)
        self.plan.must_equal(state["plan"], str(path))
        fill(path, self.task, self.optimizer, self.average, state)
        self.stepper.restore(state["counts"])
        self.step = self.saved_at = state["step"]
        self.evaluated_at, self.metrics = state["evaluated_at"], state["metrics"]
        self.best = Best(**state["best"]) if state["best"] else None
        self._tidy()
        return self.step

    def _evaluate(self, log: RunLog) -> None:
        assert self.evaluate is not None
        values: dict[str, float] = {}
        for prefix, module in (("", self.task), ("ema_", self.average.module if self.average else None)):
            if module is not None:
                module.eval()
                with torch.no_grad(), autocast(self.device, self.run.precision):
                    values |= {prefix + key: float(value) for key, value in self.evaluate(module).items()}
        self.metrics, self.evaluated_at = values, self.step
        self._note_best()
        log.evaluation(self.step, self.plan.epoch(self.step), values)
        self.clock = time.perf_counter()

    def _note_best(self) -> None:
        sign = 1 if self.maximise else -1
        for key in (self.best_metric, f"ema_{self.best_metric}"):
            if key in self.metrics and (
                self.best is None or sign * self.metrics[key] > sign * self.best.value
            ):
                self.best = Best(key, self.metrics[key], self.step)

    def _save(self) -> None:
        state = {
            "plan": self.plan.fixed(),
            "evaluated_at": self.evaluated_at,
            "metrics": self.metrics,
            "best": asdict(self.best) if self.best else None,
            "counts": self.stepper.state(),
            "averaged": int(self.average.n_averaged) if self.average else 0,
        }
        tensors = gather(self.task, self.optimizer, self.average)
        checkpoint.save_checkpoint(self.folder.checkpoints, tensors, state, self.step)
        self.saved_at = self.step
        self._tidy()
        self.clock = time.perf_counter()

    def _tidy(self) -> None:
        checkpoint.keep(self.folder.checkpoints, self.run.keep_last, self.best.step if self.best else None)

    def _step(self, stream: Iterator[ClipBatch], stop: StopRequest) -> None:
        self.stepper.take(self.step, learning_rate(self.plan, self.step), stream)
        if self.average is not None:
            self.average.update_parameters(self.task)
        self.step += 1
        if self.device.type == "cpu":
            self.stepper.check(self.step)

    def _log(self, log: RunLog) -> None:
        window, self.stepper.window = self.stepper.window, Window()
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
                "clips_per_second": window.clips * distributed.world_size() / max(seconds, 1e-9),
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
            f"stopped after step {self.step} of {self.plan.steps}, saved in {self.folder}; the same command "
            "goes on from there",
            stop.number,
        )

    def _stopping(self, stop: StopRequest) -> bool:
        if distributed.in_group() and not self._log_due():
            return False  # Processes agree on stopping only when they meet to log.
        return distributed.any_process(bool(stop.number), self.device)

    def _evaluation_due(self) -> bool:
        return (
            self.evaluate is not None
            and self.plan.evaluate_every > 0
            and self.plan.is_due(self.plan.evaluate_every, self.step)
        )

    def _save_due(self) -> bool:
        new_best = self.best is not None and self.best.step == self.step
        return new_best or self.plan.is_due(self.plan.checkpoint_every, self.step)

    def _log_due(self) -> bool:
        # Also before an evaluation or a checkpoint, so that no part of a mean is lost to a resume.
        return self.plan.is_due(self.run.log_every, self.step) or self._save_due() or self._evaluation_due()
