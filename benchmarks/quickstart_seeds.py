"""The quickstart over several seeds: what pre-training is worth on 64 labels, with its spread.

    python benchmarks/quickstart_seeds.py --seeds 0 1 2

Each seed draws other videos, other initial weights and other masks. Interrupted runs resume; the result goes
to `benchmarks/results/quickstart_seeds.json`. Wall time counts what else the machine did; CPU time, halved,
is what two cores take that do nothing else and share the work evenly.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from machine import save_result

from videomae2.config import flatten
from videomae2.quickstart import plan
from videomae2.quickstart.stages import run_quickstart


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/quickstart_seeds"))
    arguments = parser.parse_args()
    summaries = [_summary(arguments.work / f"seed{seed}", seed) for seed in arguments.seeds]
    path = save_result("quickstart_seeds", collect(summaries))
    print(path.read_text())
    print(path)


def collect(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of each arm's top-1 and of the margin, with every single value."""
    columns = {arm: [summary["top1"][arm] for summary in summaries] for arm in summaries[0]["top1"]}
    columns["margin_over_scratch"] = [summary["margin_over_scratch"] for summary in summaries]
    return {
        "seeds": [summary["seed"] for summary in summaries],
        "chance": summaries[0]["chance"],
        "top1": {name: _spread(values) for name, values in columns.items()},
        "unordered_bound": summaries[0]["unordered_bound"],
        "interval95": [summary["interval95"] for summary in summaries],
        "seconds": [summary["seconds"] for summary in summaries],
        "cpu_seconds": [summary["cpu_seconds"] for summary in summaries],
        "cpu_minutes_halved": [round(summary["cpu_seconds"]["total"] / 120, 1) for summary in summaries],
        "videos": summaries[0]["videos"],
        "settings": {
            "pretrain": flatten(plan.pretraining(Path("data"), Path("out"), 0)),
            "finetune": flatten(plan.finetuning(Path("data"), Path("out"), 0, "weights")),
            "from_scratch": plan.FROM_SCRATCH,
        },
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "mean": round(statistics.mean(values), 4),
        "sd": round(statistics.stdev(values), 4),
        "values": values,
    }


def _summary(out: Path, seed: int) -> dict[str, Any]:
    if not (out / "summary.json").exists():
        run_quickstart(out, seed)
    return json.loads((out / "summary.json").read_text())


if __name__ == "__main__":
    main()
