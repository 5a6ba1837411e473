"""What each piece of `models/cpu/` pays: the package with it against the package without it, in turn.

    python benchmarks/cpu_pieces.py                        # every piece in every row where it runs
    python benchmarks/cpu_pieces.py --pieces fold --pairs 3
    python benchmarks/cpu_pieces.py --list

A piece stays where it pays at least 5 % of a step's time or 10 % of its memory in some row. Ratios above 1
are what the network costs without the piece: times as slow, times as large.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import networks
from machine import save_result
from pairs import PAIRS, Call, Turn, medians, programs, ratio, spread, take_turns
from table import show
from torch import Tensor, nn
from torch.nn import functional as F

from videomae2.models import cpu
from videomae2.models.cpu import attention, block, linear, recompute
from videomae2.models.encoder import Tokenizer
from videomae2.settings import MaskSettings

ENOUGH_TIME, ENOUGH_MEMORY = 1.05, 1.10

INFERENCE = [
    networks.Work(model, "inference", batch, precision=precision)
    for model in ("vit_s16", "vit_b16")
    for precision in ("fp32", "bf16")
    for batch in (1, 4)
]
PRETRAINING = [
    networks.Work(model, "pretrain", 4, precision=precision, mask=MaskSettings())
    for model in ("vit_s16", "vit_b16")
    for precision in ("fp32", "bf16")
]
FINETUNING = [networks.Work("vit_s16", "finetune", 2, precision=precision) for precision in ("fp32", "bf16")]


@dataclass(frozen=True)
class Piece:
    """One thing that `models/cpu/` does, how it is left out, and the rows in which it runs."""

    about: str
    leave_out: Callable[[], None]
    works: list[networks.Work]


def _without_fold() -> None:
    cpu.CpuTokenizer.forward = Tokenizer.forward  # type: ignore[method-assign]


def _without_written_out_attention() -> None:
    attention.EXPLICIT_UP_TO = 0


def _without_own_attention() -> None:
    def fused(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)

    block.attend = fused


def _without_fused_gelu() -> None:
    linear.onednn_fuses = lambda: False


def _without_held_bf16() -> None:
    held = cpu.for_inference

    def casting(network: nn.Module, precision: str) -> nn.Module:
        import torch

        plain = network.forward
        held(network, "fp32")

        def forward(*given: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                return plain(*given)

        network.forward = forward  # type: ignore[method-assign]
        return network

    cpu.for_inference = casting  # type: ignore[assignment]


def _without_recomputed_norms() -> None:
    def heads(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor, **how: Any) -> tuple[Tensor, ...]:
        return recompute.cut(F.linear(norm(x), weight, bias), len(how["parts"]), how["num_heads"])

    def mlp(x: Tensor, norm: nn.LayerNorm, first: nn.Linear, second: nn.Linear, **_: Any) -> Tensor:
        out: Tensor = second(F.gelu(first(norm(x))))
        return out

    block.norm_heads, block.norm_mlp = heads, mlp


def _without_everything() -> None:
    cpu.apply = lambda network: network


BF16 = [work for work in (*PRETRAINING, *FINETUNING) if work.precision == "bf16"]
PIECES = {
    "fold": Piece("normalisation inside the embedding's weights", _without_fold, [*INFERENCE, *PRETRAINING]),
    "written_out": Piece("bf16 attention up to 256 keys as matmuls", _without_written_out_attention, BF16),
    "own_backward": Piece("the backward pass of bf16 attention", _without_own_attention, BF16),
    "fused_gelu": Piece(
        "bias and GELU inside the bf16 matmul",
        _without_fused_gelu,
        [work for work in INFERENCE if work.precision == "bf16"],
    ),
    "held_bf16": Piece(
        "weights held in bf16 for inference",
        _without_held_bf16,
        [work for work in INFERENCE if work.precision == "bf16"],
    ),
    "recomputed": Piece(
        "norms and GELU computed again for the backward pass",
        _without_recomputed_norms,
        [*PRETRAINING, *FINETUNING],
    ),
    "everything": Piece("all of models/cpu", _without_everything, [*INFERENCE, *PRETRAINING, *FINETUNING]),
}


def prepare(work: networks.Work, piece: str) -> Call:
    """A turn of this work, without a piece where one is named."""
    if piece:
        PIECES[piece].leave_out()
    return networks.prepare(work)


def measure(name: str, work: networks.Work, pairs: int) -> dict[str, Any]:
    """One piece in one row: how many times the time and the memory without it."""
    with programs((prepare, work, ""), (prepare, work, name)) as running:
        kept, without = take_turns(running, pairs)
    return {
        "piece": name,
        "row": f"{work.task} {work.model} {work.precision} {work.batch}",
        "work": {key: value for key, value in asdict(work).items() if key in ("model", "task", "batch")},
        "with": medians(kept),
        "without": medians(without),
        "slower": ratio(without, kept),
        "larger_process": _larger(without, kept, "peak_bytes"),
        "larger_tensors": _larger(without, kept, "live_bytes"),
    }


def _larger(without: list[Turn], kept: list[Turn], kind: str) -> float:
    most = [max(turn.reported[kind] for turn in turns) for turns in (without, kept)]
    return round(most[0] / max(1.0, most[1]), 3)


def pays(rows: list[dict[str, Any]]) -> bool:
    """Whether a piece earns its place in one of these rows."""
    return any(
        row["slower"]["median"] >= ENOUGH_TIME
        or max(row["larger_process"], row["larger_tensors"]) >= ENOUGH_MEMORY
        for row in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pieces", nargs="+", default=list(PIECES), choices=list(PIECES))
    parser.add_argument("--models", nargs="+", default=["vit_s16", "vit_b16"])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--list", action="store_true", help="print the pieces and stop")
    parser.add_argument("--dry", action="store_true", help="write no result")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{name}: {piece.about}" for name, piece in PIECES.items()))
        return
    rows: list[dict[str, Any]] = []
    for name in given.pieces:
        for work in PIECES[name].works:
            if work.model not in given.models:
                continue
            rows.append(measure(name, work, given.pairs))
            _print(rows[-1:])
            if not given.dry:
                save_result("cpu_pieces", {"pays": _verdicts(rows), "rows": rows})
    _print(rows)
    print(_verdicts(rows))


def _verdicts(rows: list[dict[str, Any]]) -> dict[str, bool]:
    names = dict.fromkeys(row["piece"] for row in rows)
    return {name: pays([row for row in rows if row["piece"] == name]) for name in names}


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ["without", "row", "times as slow", "process", "tensors"]
    show(
        "what each piece of models/cpu pays",
        columns,
        [
            [row["piece"], row["row"], spread(row["slower"]), row["larger_process"], row["larger_tensors"]]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
