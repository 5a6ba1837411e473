"""How long the mAP of a large test set takes: python benchmarks/segment_map.py; one process, random segments.

20,000 videos with 200 predictions each are more than ActivityNet's test set with the usual 100.
"""

import time

import torch
from machine import save_result

from videomae2.labels import Segments
from videomae2.metrics.segments import ACTIVITYNET, false_positives, segment_map

VIDEOS, PREDICTIONS, TRUE, CLASSES = 20_000, 200, 8, 200


def drawn(generator: torch.Generator, each: int, scored: bool) -> Segments:
    """Segments of every video: a third of the predictions have the class of a true segment."""
    total = VIDEOS * each
    start = torch.rand(total, generator=generator, dtype=torch.float64) * 180
    length = torch.rand(total, generator=generator, dtype=torch.float64) * 40
    video = torch.arange(VIDEOS).repeat_interleave(each)
    # A video shows few classes: here two, and predictions are of these or of any third one.
    labels = (video * 7 + torch.randint(2, (total,), generator=generator)) % CLASSES
    other = torch.randint(CLASSES, (total,), generator=generator)
    labels = torch.where(torch.rand(total, generator=generator) < 0.3, other, labels)
    return Segments(
        seconds=torch.stack([start, start + length], 1),
        counts=torch.full((VIDEOS,), each),
        labels=labels,
        scores=torch.rand(total, generator=generator) if scored else None,
    )


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, predicted = drawn(generator, TRUE, False), drawn(generator, PREDICTIONS, True)
    seconds: dict[str, float] = {}
    for name, measure in (
        ("mAP at 10 thresholds", lambda: segment_map(truth, predicted, CLASSES, ACTIVITYNET)),
        ("false positives at one", lambda: false_positives(truth, predicted, CLASSES)),
    ):
        start = time.perf_counter()
        measure()
        seconds[name] = round(time.perf_counter() - start, 2)
        print(f"{name}: {seconds[name]} s")
    sizes = {
        "videos": VIDEOS,
        "predictions a video": PREDICTIONS,
        "true segments a video": TRUE,
        "classes": CLASSES,
    }
    save_result("segment_map", {**sizes, "seconds": seconds})


if __name__ == "__main__":
    main()
