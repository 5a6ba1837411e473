"""A fine-tuning step on a CPU: ours eager, compiled, in bf16 and with MLPs checkpointed against
`transformers`, and memory.

    python benchmarks/finetune_step.py  # ViT-S and ViT-B at 16 x 224 x 224, about twenty minutes
    python benchmarks/finetune_step.py --models vit_s16 --no-compiled

Times are of `--batch` clips, programs in turn, A B C A B C, each in a process of its own; `transformers` runs
as its users run it, and again with our allocator setting (engine/device.py). Memory is of `--memory-batch`
clips, where activations outweigh weights and optimizer, from one step of each: the process's peak above its
imports, and its tensors' peak.
"""

import argparse
from typing import Any

import networks
from machine import save_result
from networks import GRID, Work, compare
from pairs import PAIRS, programs, spread
from table import show


def main() -> None:
    arguments = _arguments()
    rows, gains, memory = [], [], []
    for model in arguments.models:
        print(f"{model}: times at batch {arguments.batch} ...", flush=True)
        found, compared = _times(model, arguments)
        rows += found
        gains += compared
        print(f"{model}: memory at batch {arguments.memory_batch} ...", flush=True)
        memory += _memory(model, arguments.memory_batch)
    _print(rows, gains, memory)
    if not arguments.dry:
        settings = {"batch": arguments.batch, "pairs": arguments.pairs, "clip": str(GRID)}
        settings |= {"memory_batch": arguments.memory_batch}
        print(save_result("finetune_step", {**settings, "rows": rows, "gains": gains, "memory": memory}))


def _times(model: str, arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    batch = arguments.batch
    peers = [Work(model, "finetune", batch, peer=True, keep_memory=keep) for keep in (False, True)]
    peers.append(Work(model, "finetune", batch, peer=True, precision="bf16", keep_memory=False))
    ours = [
        Work(model, "finetune", batch, precision=precision, mlp_checkpointing=mlps)
        for mlps in (False, True)
        for precision in ("fp32", "bf16")
    ]
    rows, gains = compare(peers, ours, arguments.pairs)
    if arguments.compiled:  # by themselves: all at once need more than 24 GB
        compiled = [
            Work(model, "finetune", batch, precision=precision, compiled=True)
            for precision in ("fp32", "bf16")
        ]
        more_rows, more_gains = compare(peers, compiled, arguments.pairs)
        rows += more_rows[len(peers) :]
        gains += more_gains
    return rows, gains


def _memory(model: str, batch: int) -> list[dict[str, Any]]:
    """Peaks of one step of each side and precision, one process at a time, and the ratios."""
    found = []
    for precision in ("fp32", "bf16"):
        theirs = _peaks(Work(model, "finetune", batch, peer=True, precision=precision, keep_memory=False))
        for mlps in (False, True):
            ours = _peaks(Work(model, "finetune", batch, precision=precision, mlp_checkpointing=mlps))
            ratios = {f"{kind}_ratio": round(ours[kind] / theirs[kind], 3) for kind in ("process", "tensors")}
            found.append(
                {
                    "model": model,
                    "precision": precision,
                    "batch": batch,
                    "transformers": theirs,
                    "ours": ours,
                    **ratios,
                }
            )
    return found


def _peaks(work: Work) -> dict[str, Any]:
    with programs((networks.prepare, work)) as running:
        reported = running[0].turn().reported
    return {"what": work.name, "process": reported["peak_bytes"], "tensors": reported["live_bytes"]}


def _print(rows: list[dict[str, Any]], gains: list[dict[str, Any]], memory: list[dict[str, Any]]) -> None:
    columns = ["step", "s", "low", "high", "core-s", "forward", "backward", "optimizer", "clips/s"]
    keys = (
        "seconds",
        "seconds_low",
        "seconds_high",
        "cpu_seconds",
        "forward",
        "backward",
        "optimizer",
        "clips_per_second",
    )
    show(
        "fine-tuning step",
        columns,
        [[f"{row['model']} {row['what']}", *(row[key] for key in keys)] for row in rows],
    )
    show(
        "gains",
        ["", "times as fast"],
        [[f"{gain['model']}: {gain['gain']}", spread(gain["faster"])] for gain in gains],
    )
    cells = [
        [
            f"{each['model']} {each['ours']['what']}, batch {each['batch']}",
            *(each[side][kind] / 1e9 for kind in ("process", "tensors") for side in ("transformers", "ours")),
            each["process_ratio"],
            each["tensors_ratio"],
        ]
        for each in memory
    ]
    heads = ["peak memory", "process GB: theirs", "ours", "tensors GB: theirs", "ours", "process", "tensors"]
    show("memory of a step", heads, cells)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["vit_s16", "vit_b16"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--memory-batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--dry", action="store_true", help="write no result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
