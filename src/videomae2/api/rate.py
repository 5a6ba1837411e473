"""How many clips a second this machine trains or classifies, measured on a few steps with made-up frames."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from videomae2 import chance
from videomae2.cost.estimate import Question, Rate, mask_of, model_of, workload_of
from videomae2.engine.device import choose_device, freed_memory_kept
from videomae2.engine.optim import build_optimizer
from videomae2.engine.step import Stepper
from videomae2.engine.task import Task
from videomae2.heads.classify import build_classifier
from videomae2.labels import Classes
from videomae2.models import cpu
from videomae2.models.build import build_autoencoder
from videomae2.recipes.finetune import Finetuning
from videomae2.recipes.pretrain import Pretraining
from videomae2.records import Batch
from videomae2.settings import FinetuneSettings, OptimSettings, RunSettings, TargetSettings

ON_CPU = 16
"""Clips of a forward on a CPU, at most: more are no faster a clip, and may not fit."""
SECONDS, MOST_STEPS = 6.0, 20


def measure(question: Question) -> Rate:
    """Train, or classify, for some seconds as the question says, on a GPU where there is one.

    The steps are those of the engine, with everything but decoding. UserError as for `cost`.
    """
    device = choose_device("auto")
    workload = workload_of(question)
    clips = workload.clips_per_forward
    if device.type == "cpu":
        clips = min(clips, max(ON_CPU, workload.views))
    step = (_inference if question.task == "inference" else _training)(question, clips, device)
    with freed_memory_kept():
        step()  # the first step allocates, and on a GPU chooses kernels
        _wait(device)
        started, steps = time.perf_counter(), 0
        while steps < MOST_STEPS and (steps == 0 or time.perf_counter() - started < SECONDS):
            step()
            steps += 1
        _wait(device)
    return Rate(steps * clips / (time.perf_counter() - started), _name(device), clips)


def _training(question: Question, clips: int, device: torch.device) -> Callable[[], None]:
    task = _task(question)
    network = task.network.to(device)
    if device.type == "cpu":
        cpu.apply(network)
    optim = OptimSettings()
    run = RunSettings(precision=question.precision)
    stepper = Stepper(task, network, build_optimizer(network, optim), optim, run, device)
    batches = _same(_batch(question, clips))

    def step() -> None:
        stepper.take(0, 1e-6, batches)

    return step


def _task(question: Question) -> Task:
    model = model_of(question)
    generator = chance.torch_generator(chance.key(0, "initial weights"))
    if question.task == "pretrain":
        return Pretraining(build_autoencoder(model, generator), mask_of(question), TargetSettings())
    classifier = build_classifier(model, question.classes, generator=generator)
    return Finetuning(classifier, FinetuneSettings())


def _inference(question: Question, clips: int, device: torch.device) -> Callable[[], None]:
    classifier = build_classifier(model_of(question), question.classes).to(device)
    network = cpu.for_inference(classifier, question.precision)
    frames = _frames(question, clips).to(device)

    @torch.inference_mode()
    def step() -> None:
        network(frames)

    return step


def _batch(question: Question, clips: int) -> Batch[Classes]:
    rows = torch.arange(clips)
    labels = Classes(rows % question.classes)
    return Batch(_frames(question, clips), rows, torch.zeros_like(rows), labels)


def _frames(question: Question, clips: int) -> Tensor:
    shape = (clips, question.frames, 3, question.size, question.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=chance.torch_generator(0))


def _same(batch: Batch[Any]) -> Iterator[Batch[Any]]:
    while True:
        yield batch


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_threads()} threads"
