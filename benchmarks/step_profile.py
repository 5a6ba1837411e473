"""Where the time of a pre-training step on a CPU goes, by kind of operation: what keeps it below the rate of
its products.

    python benchmarks/step_profile.py
    python benchmarks/step_profile.py --model vit_s16 --precisions bf16 --batch 8

Ours, running cell 0.5, `unseen`. Products are held against the rate of a 2048 x 2048 x 2048 product measured
in the same process; the time they would take at that rate is the least a step can take.
"""

import argparse
from collections import defaultdict
from typing import Any

import matmul
import networks
from machine import save_result
from networks import Work
from table import show
from torch.profiler import ProfilerActivity, profile

from videomae2.architecture import architecture_of
from videomae2.cost.macs import training_macs
from videomae2.mask_counts import count_tokens
from videomae2.settings import MaskSettings, ModelSettings

KINDS = {
    "products of linear layers": ("aten::mm", "aten::addmm"),
    "products of attention": ("aten::bmm", "aten::baddbmm"),
    "fused attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "softmax of attention": ("aten::_softmax",),
    "GELU": ("aten::gelu",),
    "norms": ("aten::native_layer_norm",),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::stack"),
    "AdamW": ("aten::_fused_adamw_",),
}
"""Beginnings of the names of operations, the first that fits; the rest is sums, targets, masks and the
interpreter.
"""
STEPS = 5


def main() -> None:
    arguments = _arguments()
    rows = [_measure(arguments.model, precision, arguments.batch) for precision in arguments.precisions]
    _print(rows)
    if not arguments.dry:
        print(
            save_result(
                "step_profile",
                {"model": arguments.model, "batch": arguments.batch, "steps": STEPS, "rows": rows},
            )
        )


def _measure(model: str, precision: str, batch: int) -> dict[str, Any]:
    mask = MaskSettings(membership="unseen")
    step = networks.prepare(Work(model, "pretrain", batch, precision=precision, mask=mask))
    rate = matmul.prepare(precision)
    for _ in range(3):
        step()
    seconds, gflops = [], []
    for _ in range(STEPS):
        seconds.append(sum(step()[part] for part in ("forward", "backward", "optimizer")))
        gflops.append(rate()["gflops"])
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            step()
    kinds: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        kinds[_kind(event.key)] += event.self_cpu_time_total / 1e6 / STEPS
    network = architecture_of(ModelSettings(name=model), decoder=True)
    useful = 2 * batch * training_macs(network, count_tokens(network.grid, mask)) / 1e9
    median, fastest = sorted(seconds)[STEPS // 2], sorted(gflops)[STEPS // 2]
    return {
        "precision": precision,
        "seconds": round(median, 4),
        "matmul_gflops": round(fastest, 1),
        "useful_gflop": round(useful, 1),
        "seconds_at_matmul_rate": round(useful / fastest, 4),
        "useful_share": round(useful / fastest / median, 4),
        "profiled_seconds": {
            name: round(value, 4) for name, value in sorted(kinds.items(), key=lambda each: -each[1])
        },
    }


def _kind(name: str) -> str:
    return next(
        (kind for kind, beginnings in KINDS.items() if name.startswith(beginnings)), "everything else"
    )


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        title = (
            f"{row['precision']}: {row['seconds']:.3f} s a step, {row['seconds_at_matmul_rate']:.3f} s at "
            "the rate of products "
            f"({row['matmul_gflops']:,.0f} GFLOP/s): {100 * row['useful_share']:.1f} %"
        )
        total = sum(row["profiled_seconds"].values())
        cells = [
            [name, 1000 * value, f"{100 * value / total:.1f} %"]
            for name, value in row["profiled_seconds"].items()
        ]
        show(title, ["kind (under the profiler)", "ms", "share"], cells)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_b16")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dry", action="store_true", help="write no result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
