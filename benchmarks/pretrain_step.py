"""A pre-training step on a CPU: ours under each decoder mask against `transformers`, in fp32 and bf16, with
its memory.

    python benchmarks/pretrain_step.py  # ViT-S and ViT-B at 16 x 224 x 224, about ten minutes
    python benchmarks/pretrain_step.py --models vit_s16 --pairs 3

Programs of one model and precision run in turn, A B C A B C, each in a process of its own. `transformers`
runs as its users run it, and once more with glibc told to keep freed memory, as our loop tells it
(engine/device.py): the second shows what the networks are worth without that. A step is forward, backward and
fused AdamW. "Useful" counts the matmuls of the step as computed here (`cost.macs.training_macs`, without
recomputation) against the rate of a 2048 x 2048 x 2048 matmul measured in the same turns. Memory is what the
process holds at most above its imports, and what its tensors do; activations are the tensors' peak less
parameters, optimizer and position tables.
"""

import argparse
from typing import Any

import matmul
import networks
from machine import save_result
from networks import GRID, Work
from pairs import PAIRS, Turn, medians, programs, ratio, spread, take_turns
from table import show

from videomae2.architecture import architecture_of
from videomae2.cost.activations import Execution
from videomae2.cost.macs import training_macs
from videomae2.cost.memory import training_memory
from videomae2.mask_counts import count_tokens
from videomae2.settings import MaskSettings, ModelSettings

NONE = MaskSettings(decoder="none")
RELEASED = MaskSettings(membership="released")
UNSEEN = MaskSettings(membership="unseen")


def main() -> None:
    arguments = _arguments()
    rows, gains = [], []
    for model in arguments.models:
        for precision in arguments.precisions:
            print(f"{model}, {precision}, batch {arguments.batch} ...", flush=True)
            found, compared = _measure(model, precision, arguments)
            rows += found
            gains += compared
    _print(rows, gains)
    if not arguments.dry:
        settings = {"batch": arguments.batch, "pairs": arguments.pairs, "clip": str(GRID)}
        print(save_result("pretrain_step", {**settings, "rows": rows, "gains": gains}))


def _measure(
    model: str, precision: str, arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All programs of one model and precision, and the ratios that matter."""
    batch = arguments.batch
    peer = [Work(model, "pretrain", batch, peer=True, keep_memory=keep) for keep in (False, True)]
    if precision == "bf16":
        peer.append(Work(model, "pretrain", batch, peer=True, precision="bf16", keep_memory=False))
    ours = [
        Work(model, "pretrain", batch, precision=precision, mask=mask) for mask in (NONE, RELEASED, UNSEEN)
    ]
    works = [*peer, *ours]
    with programs((matmul.prepare, precision), *((networks.prepare, work) for work in works)) as running:
        rate, *turns = take_turns(running, arguments.pairs)
    gflops = medians(rate)["gflops"]
    rows = [_row(work, taken, gflops) for work, taken in zip(works, turns, strict=True)]
    by_name = {work.name: taken for work, taken in zip(works, turns, strict=True)}
    return rows, _gains(model, precision, works, by_name, {row["what"]: row for row in rows})


def _row(work: Work, turns: list[Turn], gflops: float) -> dict[str, Any]:
    row = {"model": work.model, "what": work.name, "batch": work.batch, **medians(turns)}
    row["clips_per_second"] = round(work.batch / row["seconds"], 3)
    if work.peer or work.mask is None:
        return row
    network = architecture_of(ModelSettings(name=work.model), decoder=True)
    counts = count_tokens(network.grid, work.mask)
    estimate = training_memory(network, counts, Execution(work.batch, work.precision, device="cpu"))
    useful = 2 * work.batch * training_macs(network, counts) / 1e9
    row["useful_gflop"], row["matmul_gflops"] = round(useful, 1), gflops
    row["useful_share"] = round(useful / row["seconds"] / gflops, 4)
    row["estimated_peak_bytes"] = estimate.peak
    # The clips were there before the counting began. Gradients are not there yet when activations are at
    # their most.
    row["live_over_estimate"] = round(row["live_bytes"] / (estimate.peak - estimate.clips), 4)
    row["activation_bytes"] = row["live_bytes"] - estimate.parameters - estimate.optimizer - estimate.buffers
    return row


def _gains(
    model: str,
    precision: str,
    works: list[Work],
    turns: dict[str, list[Turn]],
    rows: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """Each gain with its target, where the issue of this package names one."""
    peers = {work.name: turns[work.name] for work in works if work.peer}
    ours = {mask: Work(model, "pretrain", 1, precision=precision, mask=MASKS[mask]).name for mask in MASKS}
    gains = [
        {"model": model, "gain": f"{precision} {mask} over {peer}", "faster": ratio(taken, turns[name])}
        for peer, taken in peers.items()
        for mask, name in ours.items()
    ]
    none, unseen = ours["none"], ours["unseen"]
    memory = rows[unseen]["activation_bytes"] / rows[none]["activation_bytes"]
    gain = {
        "model": model,
        "gain": f"{precision} unseen over none",
        "faster": ratio(turns[none], turns[unseen]),
    }
    return [*gains, {**gain, "activation_memory": round(memory, 3)}]


MASKS = {"none": NONE, "released": RELEASED, "unseen": UNSEEN}


def _print(rows: list[dict[str, Any]], gains: list[dict[str, Any]]) -> None:
    columns = [
        "step",
        "s",
        "low",
        "high",
        "core-s",
        "forward",
        "backward",
        "optimizer",
        "process GB",
        "tensors GB",
        "/ estimate",
        "useful",
    ]
    cells = [
        [
            f"{row['model']} {row['what']}",
            *(
                row[key]
                for key in (
                    "seconds",
                    "seconds_low",
                    "seconds_high",
                    "cpu_seconds",
                    "forward",
                    "backward",
                    "optimizer",
                )
            ),
            row["peak_bytes"] / 1e9,
            row["live_bytes"] / 1e9,
            row.get("live_over_estimate", "-"),
            f"{100 * row['useful_share']:.1f} %" if "useful_share" in row else "-",
        ]
        for row in rows
    ]
    show("pre-training step", columns, cells)
    told = [
        [f"{g['model']}: {g['gain']}", spread(g["faster"]), g.get("activation_memory", "-")] for g in gains
    ]
    show("gains", ["", "times as fast", "activation memory"], told)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["vit_s16", "vit_b16"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--dry", action="store_true", help="write no result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
