"""Fine-tuning: supervised training of a classifier; also post-pre-training (paper 3.3)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from videomae2 import chance
from videomae2.bounds import shown
from videomae2.data.augment.mixing import mixup_cutmix, soft_targets
from videomae2.data.clips import read_class
from videomae2.engine import parallel
from videomae2.engine.progress import say
from videomae2.errors import UserError
from videomae2.files import json_text, write_atomically
from videomae2.heads.classify import Classifier, build_classifier, gather_scores, score_views
from videomae2.labels import Classes
from videomae2.metrics.accuracy import ViewScores
from videomae2.models.layers import drop_by_sample
from videomae2.recipes.feed import EvaluationFeed, Prepared, Recipe, TrainingFeed, held_out_feed
from videomae2.recipes.weights import About, load_classifier, sampling_of
from videomae2.records import Batch, Failure, StepOutput
from videomae2.settings import FinetuneSettings
from videomae2.targets import soft_cross_entropy


class Finetuning:
    """The task: mix clips and labels, classify, soft cross-entropy; accuracy on held-out videos."""

    network: Classifier

    def __init__(
        self,
        network: Classifier,
        settings: FinetuneSettings,
        class_names: tuple[str, ...] = (),
        held_out: EvaluationFeed | None = None,
        *,
        names_from: str = "",
        keep: Path | None = None,
    ) -> None:
        """`keep` is the folder that gets the confusions of the last evaluation; None keeps none."""
        self.network = network
        self.keep = keep
        self.num_classes = network.num_classes
        self.settings = settings
        self.class_names, self.names_from = class_names, names_from
        self.held_out = held_out
        # Rows already printed: evaluations repeat, and so would the same unreadable videos.
        self._named: set[int] = set()

    def step(self, network: nn.Module, batch: Batch[Classes], _step: int) -> StepOutput:
        """Compute the cross-entropy of a batch with soft targets, from label smoothing, mixup and cutmix."""
        frames, targets = self.mix(batch)
        drop_by_sample(network, chance.keys(self._key("drop path", batch), batch.row, batch.view))
        return StepOutput(soft_cross_entropy(network(frames), targets))

    def mix(self, batch: Batch[Classes]) -> tuple[Tensor, Tensor]:
        """Frames [B, T, C, H, W] and soft targets [B, K]; frames are uint8 unless mixup or cutmix is on."""
        settings, labels = self.settings, batch.target.index
        # Where nothing is mixed the clips need no float copy, four times their size: the tokenizer converts.
        if settings.mixup <= 0 and settings.cutmix <= 0:
            return batch.frames, soft_targets(labels, self.num_classes, settings.label_smoothing)
        views = settings.data.repeated_views
        videos = len(batch) // views
        # A pair of videos that two ranks share is whole on both of them.
        before, after = neighbours_wanted(batch.place, videos, parallel.rank(), parallel.world_size())
        frames = parallel.with_neighbours(batch.frames, before * views, after * views)
        labels = parallel.with_neighbours(labels, before * views, after * views)
        mixed, targets = mixup_cutmix(
            frames,
            labels,
            self.num_classes,
            self._key("mix", batch),
            views=views,
            first=batch.place - before,
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            probability=settings.mix_probability,
            switch=settings.mix_switch,
            smoothing=settings.label_smoothing,
        )
        own = slice(before * views, before * views + len(batch))
        return mixed[own], targets[own]

    def _key(self, purpose: str, batch: Batch[Classes]) -> int:
        return chance.key(self.settings.run.seed, purpose, batch.epoch)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Accuracy over one centre view of each held-out video; unreadable videos count as wrong.

        Shares in [0, 1] and counts. Each unreadable video is printed once per run. UserError where not one
        video has scores.
        """
        assert self.held_out is not None, "an evaluation needs held-out videos, and the run has none"
        labels = self.held_out.labels(self.class_names, self.num_classes, names_from=self.names_from)
        scores = ViewScores(labels, self.num_classes)
        scores = gather_scores(score_views(network, self.held_out, scores))
        self._name(scores.failures.values())
        if (keep := self.keep) is not None:
            # Of the averaged weights where there are some: they are evaluated last, and a run leaves them.
            parallel.on_main(lambda: write_confusions(keep / CONFUSIONS, scores, self.class_names))
        accuracy = scores.accuracy()
        if not accuracy.evaluated:  # 0 % would look like a network that is always wrong
            first = next(iter(scores.failures.values()), None)
            raise UserError(
                f"expected scores of {accuracy.listed} held-out videos, got none: "
                + (f"{first.path}: {first.reason}" if first else "they are NaN or infinite")
                + "; mend that and run the same command again, which goes on from the last checkpoint"
            )
        values = {"top1": accuracy.top1, "top5": accuracy.top5, "mean_class": accuracy.mean_class}
        values |= {"evaluated": accuracy.evaluated, "failed": accuracy.failed, "listed": accuracy.listed}
        # top5 is None with fewer than five classes, where it would always be 1.
        return {name: float(value) for name, value in values.items() if value is not None}

    def _name(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            if failure.row not in self._named:
                self._named.add(failure.row)
                say(
                    f"held-out row {failure.row}, {failure.path}, could not be read and counts as wrong: "
                    f"{failure.reason}"
                )


def neighbours_wanted(place: int, videos: int, rank: int, world_size: int) -> tuple[bool, bool]:
    """Whether the partner of this rank's first video, and of its last, is in the batch of the next rank.

    `place` is the number of the first of its `videos`; videos 2k and 2k + 1 are a pair.
    """
    return (
        place % 2 == 1 and rank > 0,
        (place + videos) % 2 == 1 and rank < world_size - 1,
    )


CONFUSIONS = "confusion.json"
"""In a run's folder: which classes its last evaluation took for which, and its counts by class."""


def write_confusions(path: Path, scores: ViewScores, class_names: tuple[str, ...]) -> None:
    """Write class names, the counts [true class][predicted class], and the rows that failed in each class."""
    names = class_names or tuple(str(number) for number in range(scores.num_classes))
    failed = [each.failed for each in scores.per_class()]
    kept = {"names": names, "counts": scores.confusion().tolist(), "failed": failed}
    write_atomically(path, json_text(kept) + "\n")


def prepare_finetuning(settings: FinetuneSettings, feed: TrainingFeed) -> Prepared:
    """Build the fine-tuning task with initial weights; UserError for settings that cannot work."""
    if settings.label_map and not settings.init:
        raise UserError(
            f"expected --init with --label_map {settings.label_map}, got none: a label map slices the head "
            "of "
            "the weights that training starts from"
        )
    num_classes, class_names = classes_of(feed, settings.num_classes)
    names_from = feed.clips.manifest.names_from
    generator = chance.torch_generator(chance.key(settings.run.seed, "initial weights"))
    device = parallel.building_device(settings.run.shard)
    network = build_classifier(settings.model, num_classes, settings.head_init_scale, generator, device)
    notes: tuple[str, ...] = ()
    if settings.init and device != "meta":
        report = load_classifier(network, settings.init, num_classes, class_names, settings.label_map)
        notes = (str(report),)
    held_out = held_out_feed(settings.data, settings.model, settings.optim.batch_size, settings.run.device)
    if held_out is not None:
        # Built only for its check of the labels: a wrong label must not end the run after its first epoch.
        ViewScores(held_out.labels(class_names, num_classes, names_from=names_from), num_classes)
    out = Path(settings.run.out)
    task = Finetuning(network, settings, class_names, held_out, names_from=names_from, keep=out)
    extra: dict[str, Any] = {"data": sampling_of(settings.data)}
    if class_names:
        extra["class_names_from"] = names_from
    return Prepared(task, About("classifier", settings.model, num_classes, class_names, extra), notes)


def classes_of(feed: TrainingFeed, num_classes: int) -> tuple[int, tuple[str, ...]]:
    """Number of classes of a run, and their names; counted from the manifest where `num_classes` is 0."""
    manifest = feed.clips.manifest
    manifest.must_be_labelled("fine-tuning")
    found, labels = manifest.num_classes, manifest.labels()
    if int(labels.min()) == int(labels.max()):
        only = int(labels[0])
        name = shown(manifest.class_names[only]) if only < len(manifest.class_names) else only
        raise UserError(
            f"expected training videos of at least 2 classes, got {len(manifest)} of class {name} alone: a "
            "classifier would learn to say nothing else; name the folder that holds the class folders, or a "
            "list of several classes"
        )
    if num_classes and int(labels.max()) >= num_classes:
        row = int(labels.argmax())
        raise UserError(
            f"expected labels from 0 to {num_classes - 1}, since num_classes is {num_classes}, got "
            f"{labels[row]} (row {row}, {manifest.row(row).path}); raise num_classes or mend the label"
        )
    # More classes than the manifest has are allowed: a subset of a data set trains the whole head. Its names
    # are then incomplete, and wrong names would be worse than none.
    total = num_classes or found
    names = tuple(manifest.class_names)
    # Classes that no training video shows get names too: without any, held-out videos that lack a class would
    # be matched by number, and every later class counted as another one.
    return total, (*names, *(f"class {number}" for number in range(len(names), total))) if names else ()


RECIPE = Recipe(prepare_finetuning, read_target=read_class)
