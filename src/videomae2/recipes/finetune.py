"""Supervised training of a classifier; also post-pre-training on a labelled mix (paper 3.3)."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videomae2 import chance
from videomae2.data.augment.mixing import mixup_cutmix, soft_targets
from videomae2.engine.loop import train
from videomae2.engine.run import RunFolder
from videomae2.errors import UserError
from videomae2.heads.classify import Classifier, build_classifier
from videomae2.heads.scoring import gather_scores, score_views
from videomae2.limits import check_limits
from videomae2.losses import soft_cross_entropy
from videomae2.metrics.accuracy import ViewScores
from videomae2.recipes.feed import EvaluationFeed, TrainingFeed, held_out_feed, training_feed
from videomae2.recipes.outcome import sampling_of, weights_writer
from videomae2.recipes.progress import say
from videomae2.recipes.start import load_classifier
from videomae2.records import ClipBatch, Failure, StepOutput
from videomae2.settings import FinetuneSettings


class Finetuning(nn.Module):
    """The task: mix clips and labels, classify, compare; and accuracy on held-out videos."""

    def __init__(
        self, classifier: Classifier, settings: FinetuneSettings, class_names: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.settings = settings
        self.class_names = class_names

    def forward(self, batch: ClipBatch, step: int) -> StepOutput:
        """One training step's loss, against labels softened by smoothing and mixing."""
        frames, targets = self.mix(batch)
        return StepOutput(soft_cross_entropy(self.classifier(frames), targets))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the network, in place. Clips are mixed outside: how changes with each step, and so would
        the graph.
        """
        self.classifier.compile(*args, **kwargs)

    def mix(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Frames and soft targets [B, K]; frames stay uint8 where neither mixup nor cutmix is on."""
        settings, num_classes = self.settings, self.classifier.num_classes
        if settings.mixup <= 0 and settings.cutmix <= 0:
            return batch.frames, soft_targets(batch.label, num_classes, settings.label_smoothing)
        # Like dropout's, this draw is seeded for each step and forward by the loop; it is on the CPU, so no
        # device waits.
        key = int(torch.randint(2**62, ()))
        return mixup_cutmix(
            batch.frames,
            batch.label,
            num_classes,
            key,
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            probability=settings.mix_probability,
            switch=settings.mix_switch,
            smoothing=settings.label_smoothing,
        )

    def evaluate(self, held_out: EvaluationFeed, named: set[int] | None = None) -> dict[str, float]:
        """Accuracy over one centre view of each held-out video; one that cannot be read counts as wrong.

        Such videos are named, those whose rows are in `named` excepted; they are added to it.
        """
        scores = ViewScores(held_out.labels(self.class_names), self.classifier.num_classes)
        scores = gather_scores(score_views(self.classifier, held_out, scores))
        _name(scores.failures.values(), set() if named is None else named)
        accuracy = scores.accuracy()
        values = {"top1": accuracy.top1, "top5": accuracy.top5, "mean_class": accuracy.mean_class}
        values |= {"evaluated": accuracy.evaluated, "failed": accuracy.failed, "listed": accuracy.listed}
        return {name: float(value) for name, value in values.items() if value is not None}

    @staticmethod
    def evaluator(held_out: EvaluationFeed) -> Callable[[nn.Module], dict[str, float]]:
        """What the loop calls with the task, or with its average."""

        named: set[int] = set()

        def evaluate(task: nn.Module) -> dict[str, float]:
            assert isinstance(task, Finetuning)
            return task.evaluate(held_out, named)

        return evaluate


def run_finetuning(settings: FinetuneSettings) -> Path:
    """Fine-tune to the end of the plan, resuming where an earlier start left off; the run's folder comes
    back.

    The folder ends with `model.safetensors`, which names its classes. UserError for anything in the settings,
    the data or the initial weights that cannot work, before the folder is touched.
    """
    check_limits(settings)
    feed = training_feed(settings.data, settings.model, settings.optim, settings.run, "finetune")
    plan = feed.plan()
    num_classes, class_names = classes_of(feed, settings.num_classes)
    generator = chance.torch_generator(chance.key(settings.run.seed, "initial weights"))
    classifier = build_classifier(settings.model, num_classes, settings.head_init_scale, generator)
    report = (
        load_classifier(classifier, settings.init, num_classes, class_names, settings.label_map)
        if settings.init
        else None
    )
    task = Finetuning(classifier, settings, class_names)
    held_out = _held_out(settings, num_classes, class_names)
    folder = RunFolder.create_or_resume(settings.run.out, settings)
    if report is not None:
        say(str(report))
    extra: dict[str, Any] = {"data": sampling_of(settings.data)}
    write = weights_writer(
        folder.path, "classifier", settings.model, "classifier", class_names=class_names, extra=extra
    )
    evaluate = Finetuning.evaluator(held_out) if held_out is not None else None
    parts = (task, feed, plan, settings.optim, settings.run, folder, evaluate)
    train(*parts, best_metric="top1", on_finish=write, name="finetune")
    return folder.path


def classes_of(feed: TrainingFeed, num_classes: int) -> tuple[int, tuple[str, ...]]:
    """How many classes a run trains, and their names; counted from the manifest where `num_classes` is 0."""
    manifest = feed.clips.manifest
    found, labels = manifest.num_classes, manifest.labels()
    if num_classes and int(labels.max()) >= num_classes:
        row = int(labels.argmax())
        raise UserError(
            f"label {labels[row]} came (row {row}, {manifest.row(row).path}), but num_classes is "
            f"{num_classes}: "
            f"labels run from 0 to {num_classes - 1}"
        )
    total = num_classes or found
    names = tuple(manifest.class_names)
    return total, names if len(names) == total else ()


def _held_out(
    settings: FinetuneSettings, num_classes: int, class_names: tuple[str, ...]
) -> EvaluationFeed | None:
    """The validation feed, its labels checked now rather than after the first epoch."""
    held_out = held_out_feed(settings.data, settings.model, settings.optim.batch_size, settings.run.device)
    if held_out is not None:
        ViewScores(held_out.labels(class_names), num_classes)
    return held_out


def _name(failures: Iterable[Failure], named: set[int]) -> None:
    """Say which held-out videos cannot be read, each once in a run."""
    for failure in failures:
        if failure.row not in named:
            named.add(failure.row)
            say(
                f"held-out row {failure.row}, {failure.path}, could not be read and counts as wrong: "
                f"{failure.reason}"
            )
