"""Top-k accuracy over several views of each video, by manifest row, mergeable across processes."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from videomae2.errors import UserError
from videomae2.records import Failure

ROWS_AT_ONCE = 4096
"""Rows whose labels are placed at once: what is compared then stays in a cache."""


@dataclass(frozen=True)
class ClassScore:
    """One class: rows listed, rows that could not be scored, rows right at top-1 and at top-5.

    `right5` is None where there are fewer than five classes.
    """

    label: int
    listed: int
    failed: int
    right: int
    right5: int | None

    @property
    def accuracy(self) -> float | None:
        """Share of the listed rows that are right; None where no row is listed."""
        return self.right / self.listed if self.listed else None


@dataclass(frozen=True)
class Accuracy:
    """Shares of *listed* rows that are right: a row that failed, or was never scored, counts as wrong.

    The released code leaves such rows out of the denominator. `top5` is None where there are fewer than five
    classes; `mean_class` is the mean accuracy of the classes that have rows.
    """

    top1: float
    top5: float | None
    mean_class: float
    evaluated: int
    failed: int
    listed: int

    def __str__(self) -> str:
        top5 = "n/a" if self.top5 is None else f"{100 * self.top5:.2f} %"
        return (
            f"top-1 {100 * self.top1:.2f} %, top-5 {top5} "
            f"({self.evaluated} evaluated, {self.failed} failed, {self.listed} listed; "
            "failed rows count as wrong)"
        )


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share `right / total`: what as many other videos could have given."""
    # Not the usual plus or minus, which at 0 or 100 % would claim to be certain.
    z = 1.96
    share, weight = right / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * (share * (1 - share) / total + weight / (4 * total)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def ranking(scores: Float[Tensor, "n K"]) -> Int[Tensor, "n K"]:
    """Classes from the best to the worst score; equal scores keep the order of the class numbers."""
    # One stable order for top-1, top-5 and confusion: with `>=`, a constant network would always be right.
    return scores.argsort(dim=1, descending=True, stable=True)


def label_places(scores: Float[Tensor, "n K"], labels: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    """The place of each label in the `ranking` of its row, from 0; without ranking the other classes."""
    numbers = torch.arange(scores.shape[1])
    places = torch.empty(len(labels), dtype=torch.int64)
    for part in (slice(start, start + ROWS_AT_ONCE) for start in range(0, len(labels), ROWS_AT_ONCE)):
        rows, label = scores[part], labels[part, None]
        own = rows.gather(1, label)
        places[part] = ((rows > own) | ((rows == own) & (numbers < label))).sum(1)
    return places


def top_hits(scores: Float[Tensor, "n K"], labels: Int[Tensor, "n"], k: int) -> Bool[Tensor, "n"]:
    """Whether each label is among the k best scores."""
    return label_places(scores, labels) < k


class ViewScores:
    """The mean over views of each row's softmax (released), kept by manifest row.

    `labels` [M] are those of all listed rows, so that a row that nobody could read is still in every
    denominator. `sums` [M, K] are float64, `seen` [M, V] says which views each is of. Processes that scored
    different rows, or different views of a row, merge; a view that was scored twice, as padding samplers do,
    counts once. UserError for no rows, or a label that is no class.
    """

    def __init__(self, labels: Int[Tensor, "M"], num_classes: int) -> None:
        if len(labels) == 0:
            raise UserError("expected at least one row to score, got none; name a manifest with --data.val")
        if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
            bad = int(((labels < 0) | (labels >= num_classes)).nonzero()[0])
            raise UserError(
                f"expected labels 0..{num_classes - 1} for {num_classes} classes, got {int(labels[bad])} in "
                f"row {bad}; label the manifest, or evaluate a model with more classes"
            )
        self.labels = labels.cpu()
        self.num_classes = num_classes
        # In float64, so that the sum over views does not depend on their order in any digit that is shown.
        self.sums = torch.zeros(len(labels), num_classes, dtype=torch.float64)
        self.seen = torch.zeros(len(labels), 1, dtype=torch.bool)
        self.failures: dict[int, Failure] = {}

    def update(self, logits: Float[Tensor, "n K"], row: Int[Tensor, "n"], view: Int[Tensor, "n"]) -> None:
        """Add the softmax of `logits`, one line for each (row, view).

        UserError where the number of classes is another one, or a row is not in the manifest.
        """
        if logits.shape[1] != self.num_classes:
            raise UserError(
                f"expected {self.num_classes} scores for each clip, got {logits.shape[1]}; "
                "evaluate the model on a manifest of its own classes"
            )
        row, view = row.cpu(), view.cpu()
        outside = row[(row < 0) | (row >= len(self.labels))]
        if len(outside):
            raise UserError(
                f"expected rows 0..{len(self.labels) - 1} of the manifest, got a score of row "
                f"{int(outside[0])}"
            )
        self.widen(int(view.max()) + 1 if len(view) else 0)
        shares = logits.detach().double().softmax(dim=1).cpu()
        # The first of two equal views counts: a sampler that pads gives some rows twice.
        first: dict[tuple[int, int], int] = {}
        for number, place in enumerate(zip(row.tolist(), view.tolist(), strict=True)):
            first.setdefault(place, number)
        new = torch.tensor(list(first.values()), dtype=torch.int64)
        new = new[~self.seen[row[new], view[new]]]
        self.sums.index_add_(0, row[new], shares[new])
        self.seen[row[new], view[new]] = True

    def fail(self, failures: Iterable[Failure]) -> None:
        """Record rows that could not be read; they count as wrong, even if a view of them was scored."""
        for failure in failures:
            self.failures.setdefault(failure.row, failure)

    def widen(self, num_views: int) -> None:
        """Make room for so many views of each row."""
        more = num_views - self.seen.shape[1]
        if more > 0:
            self.seen = torch.cat([self.seen, self.seen.new_zeros(len(self.seen), more)], dim=1)

    def drop(self, known: Bool[Tensor, "M V"]) -> None:
        """Forget the rows whose views are all known elsewhere; UserError where only some of them are."""
        both = self.seen & known
        # Where only some views are new, their share of the sum is not known.
        parts = (both.any(1) & (self.seen & ~known).any(1)).nonzero()
        if len(parts):
            row = int(parts[0])
            views = both[row].nonzero()[:, 0].tolist()
            raise UserError(
                f"expected each view once, got views {views} of row {row} in two sums that "
                " cannot be taken apart; give each process whole rows, or views of its own"
            )
        again = both.any(1)
        self.sums[again] = 0.0
        self.seen[again] = False

    def merge(self, other: "ViewScores") -> None:
        """Add what another process scored, which loses what both have. UserError for another manifest."""
        if other.num_classes != self.num_classes or not torch.equal(other.labels, self.labels):
            raise UserError(
                "expected scores of the same manifest, got those of another; evaluate both on the same one"
            )
        num_views = max(each.seen.shape[1] for each in (self, other))
        self.widen(num_views)
        other.widen(num_views)
        other.drop(self.seen)
        self.sums += other.sums
        self.seen |= other.seen
        self.fail(other.failures.values())

    def rows(self) -> Int[Tensor, "n"]:
        """Row numbers that have scores, ascending.

        Rows that failed are left out, and so are those with a score that is not finite.
        """
        # A NaN would sort before every score and make its class the answer.
        good = self.seen.any(1) & self.sums.sum(1).isfinite()
        good[list(self.failures)] = False
        return good.nonzero()[:, 0]

    def scored(self) -> tuple[Int[Tensor, "n"], Float[Tensor, "n K"]]:
        """The rows that have scores, and the mean softmax of each."""
        rows = self.rows()
        return rows, self.sums[rows] / self.seen[rows].sum(1, keepdim=True)

    def predicted(self) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
        """The rows that have scores, and the class of the best score of each: the first of equal ones."""
        rows = self.rows()
        return rows, self._sums_of(rows).argmax(1)

    def _sums_of(self, rows: Int[Tensor, "n"]) -> Float[Tensor, "n K"]:
        """The sums of these rows; no copy where they are all, since a large table would be copied in vain."""
        return self.sums if len(rows) == len(self.sums) else self.sums[rows]

    def accuracy(self) -> Accuracy:
        """Accuracy over all listed rows."""
        table = self.per_class()
        right5 = None if self.num_classes < 5 else sum(c.right5 or 0 for c in table)
        present = [c.accuracy for c in table if c.accuracy is not None]
        listed, failed = len(self.labels), sum(c.failed for c in table)
        return Accuracy(
            top1=sum(c.right for c in table) / listed,
            top5=None if right5 is None else right5 / listed,
            mean_class=sum(present) / len(present),
            evaluated=listed - failed,
            failed=failed,
            listed=listed,
        )

    def per_class(self) -> list[ClassScore]:
        """One line for each class, in the order of the class numbers."""
        rows = self.rows()
        labels = self.labels[rows]
        places = label_places(self._sums_of(rows), labels)
        listed = self.labels.bincount(minlength=self.num_classes)
        evaluated = labels.bincount(minlength=self.num_classes)
        right = labels[places < 1].bincount(minlength=self.num_classes)
        right5 = labels[places < 5].bincount(minlength=self.num_classes)
        columns = zip(listed.tolist(), evaluated.tolist(), right.tolist(), right5.tolist(), strict=True)
        few = self.num_classes < 5
        # Failed is listed less evaluated, so that a row of which nobody heard counts too.
        return [ClassScore(k, n, n - e, r, None if few else r5) for k, (n, e, r, r5) in enumerate(columns)]

    def confusion(self) -> Int[Tensor, "K K"]:
        """Counts [true class, best-scored class] of the rows that were scored."""
        rows, best = self.predicted()
        # One number for each pair, so that one bincount fills the matrix.
        pairs = self.labels[rows] * self.num_classes + best
        return pairs.bincount(minlength=self.num_classes**2).reshape(self.num_classes, self.num_classes)
