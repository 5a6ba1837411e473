"""Frame mAP of an AVA-sized validation set: 57,000 boxes with 60 classes each.

    python benchmarks/box_metric.py

About as many key frames and true boxes as AVA 2.2 validation has, drawn at random; half of the scored boxes
lie near a true one. The median of five runs, one thread.
"""

import statistics
import time

import numpy as np
import torch
from machine import save_result

from videomae2.metrics.boxes import BoxRows, frame_ap, mean_ap

BOXES, CLASSES, FRAMES, TRUTHS = 57_000, 60, 25_000, 60_000


def main() -> None:
    torch.set_num_threads(1)
    truth, frame, xyxy, scores = _case()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        value = mean_ap(frame_ap(truth, BoxRows.of_all_classes(frame, xyxy, scores), CLASSES))
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times)
    print(f"{BOXES:,} boxes x {CLASSES} classes in {seconds:.2f} s (mAP {value:.4f})")
    result = {"boxes": BOXES, "classes": CLASSES, "key_frames": FRAMES, "true_boxes": TRUTHS}
    print(
        save_result(
            "box_metric", result | {"seconds": round(seconds, 2), "runs": [round(t, 2) for t in times]}
        )
    )


def _case() -> tuple[BoxRows, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)

    def boxes(count: int) -> np.ndarray:
        corners = rng.random((count, 2, 2))
        return np.concatenate([corners.min(1), corners.max(1)], 1)

    frames, true_boxes = rng.integers(0, FRAMES, TRUTHS), boxes(TRUTHS)
    # 2.4 actions a box, as AVA has
    box = rng.integers(0, TRUTHS, int(2.4 * TRUTHS))
    truth = BoxRows(frames, true_boxes, box, rng.integers(0, CLASSES, len(box)))
    frame, xyxy = rng.integers(0, FRAMES, BOXES), boxes(BOXES)
    near = rng.integers(0, TRUTHS, BOXES // 2)
    frame[: BOXES // 2], xyxy[: BOXES // 2] = (
        frames[near],
        true_boxes[near] + rng.normal(0, 0.01, (BOXES // 2, 4)),
    )
    return truth, frame, xyxy, rng.random((BOXES, CLASSES)).round(4)


if __name__ == "__main__":
    main()
