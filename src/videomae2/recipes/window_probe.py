"""Are features any good? What a window shows, told from its feature by its neighbours and by a linear layer.

Minutes instead of the hours of a detector: features that tell neither classes nor background in a window
will not tell them in a sequence.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from videomae2.data.features import FeatureFiles, SequenceRows
from videomae2.data.tables.annotations import AnnotatedVideo, read_annotations
from videomae2.errors import UserError
from videomae2.settings import LocalizeSettings

NEIGHBOURS = 20
TEMPERATURE = 0.07
"""Of the vote of neighbours: exp(cosine / temperature), as is usual for frozen features (DINO, ICCV 2021)."""
MOST_WINDOWS = 30_000
"""Windows of either side that are looked at, evenly spread."""
DECAY = 1e-3
"""Weight decay of the linear layer, whose inputs have variance one."""


@dataclass(frozen=True)
class WindowProbe:
    """Mean accuracy over the classes, background among them, of both ways; chance is 1 / classes."""

    neighbours: float
    linear: float
    by_class: dict[str, tuple[float, float]]
    train: int
    test: int

    def __str__(self) -> str:
        chance = 1 / len(self.by_class)
        head = (
            f"neighbours {self.neighbours:.3f}, linear layer {self.linear:.3f}, chance {chance:.3f}: mean "
            f"accuracy over {len(self.by_class)} classes with background, {self.train} windows to learn "
            f"from and {self.test} to tell"
        )
        rows = [f"  {near:.3f}  {line:.3f}  {name}" for name, (near, line) in self.by_class.items()]
        return "\n".join([head, *rows])


def probe_windows(settings: LocalizeSettings) -> WindowProbe:
    """Learn from the windows of `data.train` what those of `data.val` show. UserError without either."""
    data = settings.data
    if not data.train or not data.val:
        raise UserError(
            "expected annotations to learn from and others to tell, got one of them; give --data.train and "
            "--data.val (and their subsets, where both are one file)"
        )
    learned = read_annotations(data.train, data.train_subset, data.label_key, data.invalid)
    told = read_annotations(data.val, data.val_subset, data.label_key, data.invalid)
    names = learned.class_names
    files = FeatureFiles(data)
    train, labels = _windows(files, learned.videos, names)
    test, truth = _windows(files, told.videos, names)
    mean, spread = train.mean(0), train.std(0).clamp(min=1e-6)
    train, test = (train - mean) / spread, (test - mean) / spread
    present = truth.unique().tolist()
    near = _by_neighbours(train, labels, test, len(names) + 1)
    line = _by_linear_layer(train, labels, test, len(names) + 1)
    rows = {}
    for number in present:
        own = truth == number
        shares = [float((found[own] == number).float().mean()) for found in (near, line)]
        rows[("background", *names)[number]] = (shares[0], shares[1])
    means = [sum(row[way] for row in rows.values()) / len(rows) for way in (0, 1)]
    return WindowProbe(means[0], means[1], rows, len(train), len(test))


def _windows(
    files: FeatureFiles, videos: tuple[AnnotatedVideo, ...], names: tuple[str, ...]
) -> tuple[Float[Tensor, "n D"], Int[Tensor, "n"]]:
    """Features of windows, and what each shows at its middle: 0 for background, else 1 + its class."""
    numbers = {name: number for number, name in enumerate(names)}
    unknown = {s.label for video in videos for s in video.segments} - set(names)
    if unknown:
        raise UserError(f"expected classes of the training annotations, got {sorted(unknown)[0][:60]!r}")
    rows = SequenceRows(files, videos, numbers, 1)
    features, labels = [], []
    for number in range(len(videos)):
        found, target = rows.whole(number)
        shown = torch.zeros(len(found.values), dtype=torch.int64)
        ends = found.time.to_features(target.seconds)
        assert target.labels is not None
        # The longest first, so that the shortest of several segments has the last word.
        for place in (ends[:, 0] - ends[:, 1]).argsort().tolist():
            first, last = ends[place].tolist()
            positions = torch.arange(len(shown))
            shown[(positions >= first) & (positions <= last)] = 1 + int(target.labels[place])
        features.append(found.values)
        labels.append(shown)
    every = -(-sum(map(len, labels)) // MOST_WINDOWS)
    return torch.cat(features)[::every], torch.cat(labels)[::every]


def _by_neighbours(
    train: Float[Tensor, "n D"], labels: Int[Tensor, "n"], test: Float[Tensor, "m D"], num_classes: int
) -> Int[Tensor, "m"]:
    """The class of the nearest windows by cosine, each class weighed by how rare it is."""
    hot = F.one_hot(labels, num_classes).float()
    hot = hot / hot.sum(0).clamp(min=1)
    known = F.normalize(train)
    found = []
    for part in F.normalize(test).split(1024):
        nearest, which = (part @ known.T).topk(min(NEIGHBOURS, len(known)))
        votes = ((nearest / TEMPERATURE).softmax(1)[..., None] * hot[which]).sum(1)
        found.append(votes.argmax(1))
    return torch.cat(found)


def _by_linear_layer(
    train: Float[Tensor, "n D"], labels: Int[Tensor, "n"], test: Float[Tensor, "m D"], num_classes: int
) -> Int[Tensor, "m"]:
    """Multinomial logistic regression, each class weighed by how rare it is; solved to its one minimum."""
    weight = torch.zeros(num_classes, train.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    rarity = 1 / labels.bincount(minlength=num_classes).clamp(min=1)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(train @ weight.T + bias, labels, rarity) + DECAY * weight.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    with torch.no_grad():
        return (test @ weight.T + bias).argmax(1)
