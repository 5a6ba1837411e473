"""A classifier's scores over the views of many videos, gathered by manifest row."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from videomae2.engine import parallel as distributed
from videomae2.metrics.accuracy import ViewScores
from videomae2.records import ClipBatch


@torch.no_grad()
def score_views(
    classifier: nn.Module,
    batches: Iterable[ClipBatch],
    scores: ViewScores,
    *,
    views_per_forward: int = 0,
    precision: Callable[[], AbstractContextManager[None]] = nullcontext,
    progress: Callable[[int], None] = lambda done: None,
) -> ViewScores:
    """Add every view's softmax to `scores`; rows that could not be read are recorded as failed, never
    replaced.

    At most `views_per_forward` clips go through the network at once (0: a whole batch). `precision` opens the
    autocast to run under; `progress` is told how many rows each batch brought. The classifier is put back in
    the mode it came in.
    """
    device = next(classifier.parameters()).device
    was_training = classifier.training
    classifier.eval()
    try:
        for batch in batches:
            scores.fail(batch.failures)
            if len(batch):
                parts = batch.frames.split(views_per_forward or len(batch))
                with precision():
                    logits = torch.cat(
                        [classifier(part.to(device, non_blocking=True)).float() for part in parts]
                    )
                scores.update(logits, batch.row, batch.view)
            progress(len(batch.row.unique()) + len(batch.failures))
    finally:
        classifier.train(was_training)
    return scores


def gather_scores(scores: ViewScores) -> ViewScores:
    """The scores of all processes merged, on every process; the scores themselves when there is one."""
    if not distributed.in_group():
        return scores
    states: list[dict[str, Any]] = [{} for _ in range(distributed.world_size())]
    torch.distributed.all_gather_object(states, scores.state_dict())
    merged, *others = (ViewScores.from_state_dict(state) for state in states)
    for other in others:
        merged.merge(other)
    return merged
