"""Classifying clips on a CPU: latency of one clip and throughput of a batch, eager, compiled and in bf16.

python benchmarks/inference.py                              # ViT-S and ViT-B at 16 x 224 x 224, about ten
minutes

Programs run in turn, A B C A B C, each in a process of its own: ours from uint8 clips, `transformers` from
normalised pixels, both without gradients. Ours keeps freed memory, as `videomae2 evaluate` and `predict` do
(engine/device.py); `transformers` runs as its users run it, under autocast where in bf16, and once more with
that setting.
"""

import argparse
from typing import Any

from machine import save_result
from networks import GRID, Work, compare
from pairs import PAIRS, spread
from table import show


def main() -> None:
    arguments = _arguments()
    rows, gains = [], []
    for model in arguments.models:
        for batch in (1, arguments.batch):
            print(f"{model}, batch {batch} ...", flush=True)
            found, compared = _measure(model, batch, arguments)
            rows += found
            gains += compared
    columns = ["forward", "s", "low", "high", "core-s", "clips/s"]
    keys = ("seconds", "seconds_low", "seconds_high", "cpu_seconds", "clips_per_second")
    show(
        "inference",
        columns,
        [[f"{row['model']} {row['what']} {row['batch']}", *(row[key] for key in keys)] for row in rows],
    )
    show(
        "gains",
        ["", "times as fast"],
        [[f"{gain['model']}: {gain['gain']}", spread(gain["faster"])] for gain in gains],
    )
    if not arguments.dry:
        settings = {"pairs": arguments.pairs, "clip": str(GRID)}
        print(save_result("inference", {**settings, "rows": rows, "gains": gains}))


def _measure(
    model: str, batch: int, arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    options: list[dict[str, Any]] = [{"precision": precision} for precision in ("fp32", "bf16")]
    if arguments.compiled:
        options += [{"precision": precision, "compiled": True} for precision in ("fp32", "bf16")]
    peers = [
        Work(model, "inference", batch, peer=True, keep_memory=keep, **each)
        for each in options[:2]
        for keep in (False, True)
    ]
    rows, gains = compare(
        peers, [Work(model, "inference", batch, **each) for each in options], arguments.pairs
    )
    rows = [{**row, "batch": batch} for row in rows]
    return rows, [{**gain, "gain": f"batch {batch}, {gain['gain']}"} for gain in gains]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["vit_s16", "vit_b16"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--dry", action="store_true", help="write no result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
