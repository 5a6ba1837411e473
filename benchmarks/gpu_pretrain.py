"""Pre-training on one GPU in bf16: step time, clips a second, model-FLOPs utilisation, memory, and what the
loader brings.

    python benchmarks/gpu_pretrain.py  # ViT-B, L and g; says so and stops where there is no GPU
    python benchmarks/gpu_pretrain.py --models vit_g14                  # one of them; rows of others are kept

Each row is a process of its own that trains with the engine's own step (autocast, clipping at 0.02, fused
AdamW) on clips in pinned memory. The batch is the largest power of two that fits. Model FLOPs are those of
the matmuls of forward and backward as computed here, recomputation not counted (`cost.macs.training_macs`);
utilisation is their rate over the card's data sheet, and over the rate of an 8192 x 8192 x 8192 product
measured in the same process. Dual masking against encoder-only masking runs at one batch, the smaller of the
two. The loader is measured by itself, on generated 720p videos, with a process for each core.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from generated_videos import generated
from machine import RESULTS, save_result
from pairs import Call, programs
from table import show

from videomae2.architecture import architecture_of
from videomae2.cost.macs import training_macs
from videomae2.engine.optim import build_optimizer
from videomae2.engine.step import Stepper
from videomae2.geometry import TokenGrid
from videomae2.labels import Unlabelled
from videomae2.mask_counts import count_tokens
from videomae2.models.build import build_autoencoder
from videomae2.recipes.feed import training_feed
from videomae2.recipes.pretrain import Pretraining
from videomae2.records import Batch
from videomae2.settings import (
    MaskSettings,
    ModelSettings,
    OptimSettings,
    PretrainSettings,
    RunSettings,
    TargetSettings,
)

DATA_SHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 operations a second of the SXM cards; others are held against the measured rate alone."""
MASKS = {
    "dual": MaskSettings(),
    "dual unseen": MaskSettings(membership="unseen"),
    "encoder only": MaskSettings(decoder="none"),
}
PAPER = {"vit_b16": 1.79, "vit_g14": 1.48}  # table 2, times as fast with dual masking
SKIPPED, STEPS = 4, 8


@dataclass(frozen=True)
class Setting:
    """One row: a network, a mask, and how it is run. `batch` 0 looks for the largest that fits."""

    model: str
    mask: str = "dual"
    compiled: bool = True
    checkpointing: bool = False
    batch: int = 0
    device: str = "cuda"


def main() -> None:
    arguments = _arguments()
    if not torch.cuda.is_available():
        print("no GPU that torch can use here: nothing was measured")
        return
    rows = _kept(arguments.models)
    for model in arguments.models:
        for setting in _settings(model):
            rows.append(_run(setting))
            print(json.dumps(rows[-1]), flush=True)
        rows += _speed_up(model, [row for row in rows if row["model"] == model])
    loader = _loader(arguments) if arguments.loader else {}
    _print(rows, loader)
    print(save_result("gpu_pretrain", {"steps": STEPS, "rows": rows, "loader": loader}))


def measure(setting: Setting, settings: ModelSettings) -> dict[str, float]:
    """Seconds of a step, clips, peak bytes and rates of one setting on this process's device."""
    device = torch.device(setting.device)
    batch = setting.batch or _largest_batch(setting, settings)
    stepper, batches = _stepper(setting, settings, batch)
    seconds = []
    for step in range(SKIPPED + STEPS):
        _wait(device)
        start = time.perf_counter()
        stepper.take(step, 1e-4, batches)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    network = architecture_of(settings, decoder=True)
    flop = 2 * batch * training_macs(network, count_tokens(network.grid, MASKS[setting.mask]))
    median = statistics.median(seconds[SKIPPED:])
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "batch": float(batch),
        "seconds": median,
        "seconds_low": min(seconds[SKIPPED:]),
        "seconds_high": max(seconds[SKIPPED:]),
        "clips_per_second": batch / median,
        "model_flops_per_second": flop / median,
        "matmul_flops_per_second": _matmul_rate(device),
        "peak_bytes": float(peak),
    }


def _settings(model: str) -> Iterator[Setting]:
    for mask in MASKS:
        for checkpointing in (False, True):
            yield Setting(model, mask, checkpointing=checkpointing)
    yield Setting(model, compiled=False)


def _run(setting: Setting) -> dict[str, Any]:
    """A row, from a process of its own, so that memory starts from nothing."""
    with programs((_prepare, setting)) as running:
        found = running[0].turn().reported
    name = torch.cuda.get_device_name()
    sheet = next((rate for card, rate in DATA_SHEET.items() if card in name), None)
    rate = found["model_flops_per_second"]
    shares = {
        "utilisation": rate / sheet if sheet else None,
        "of_matmul_rate": rate / found["matmul_flops_per_second"],
    }
    return {**asdict(setting), "accelerator": name, **found, **shares}


def _prepare(setting: Setting) -> Call:
    settings = ModelSettings(name=setting.model, activation_checkpointing=setting.checkpointing)
    return lambda: measure(setting, settings)


def _stepper(setting: Setting, settings: ModelSettings, batch: int) -> tuple[Stepper, Iterator[Batch[Any]]]:
    device = torch.device(setting.device)
    network = build_autoencoder(settings).to(device)
    task = Pretraining(network, MASKS[setting.mask], TargetSettings())
    optim = OptimSettings(clip_grad=0.02)
    optimizer = build_optimizer(network, optim)
    if setting.compiled:
        network.compile()
    clips = _clips(task.grid, batch, device)
    return Stepper(task, network, optimizer, optim, RunSettings(), device), repeat(clips)


def _clips(grid: TokenGrid, batch: int, device: torch.device) -> Batch[Any]:
    frames = torch.randint(
        0, 256, grid.clip_shape(batch), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    rows = torch.arange(batch)
    clips = Batch(frames, rows, torch.zeros_like(rows), Unlabelled(batch))
    return clips.pin_memory() if device.type == "cuda" else clips


def _largest_batch(setting: Setting, settings: ModelSettings) -> int:
    """Doubling until memory ends, without compiling: what is compiled needs no more."""
    batch = 8
    while batch <= 512:
        try:
            stepper, batches = _stepper(replace(setting, compiled=False), settings, batch)
            for step in range(2):
                stepper.take(step, 1e-4, batches)
            torch.cuda.synchronize()
        except torch.OutOfMemoryError:
            break
        finally:
            stepper = batches = None  # type: ignore[assignment]
            torch.cuda.empty_cache()
        batch *= 2
    if batch == 8:
        raise SystemExit(f"{setting}: a batch of 8 does not fit into this card's memory")
    torch.cuda.reset_peak_memory_stats()
    return batch // 2


def _speed_up(model: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Dual against encoder-only masking at one batch, without checkpointing, as table 2 compares them."""
    found = {row["mask"]: row for row in rows if row["compiled"] and not row["checkpointing"]}
    batch = int(min(found["dual"]["batch"], found["encoder only"]["batch"]))
    dual, alone = (_run(Setting(model, mask, batch=batch)) for mask in ("dual", "encoder only"))
    gain = alone["seconds"] / dual["seconds"]
    print(
        f"{model}, batch {batch}: dual masking is {gain:.2f} times as fast (paper: "
        f"{PAPER.get(model, 'not printed')})"
    )
    for row in (dual, alone):
        row |= {
            "compared": True,
            "dual_speed_up": gain,
            "dual_memory": dual["peak_bytes"] / alone["peak_bytes"],
        }
    return [dual, alone]


def _loader(arguments: argparse.Namespace) -> dict[str, Any]:
    """Clips a second of the training loader alone: four views of each decoded window, as in pre-training."""
    paths = generated(arguments.work, 30, 4)
    folder = Path(paths[0]).parent
    workers = os.cpu_count() or 1
    data = replace(PretrainSettings().data, train=str(folder), workers=workers)
    batches = training_feed(data, ModelSettings(), OptimSettings(batch_size=8), RunSettings(), "pretrain")(0)
    for _ in range(2 * workers):
        next(batches)
    start, clips = time.perf_counter(), 0
    while time.perf_counter() - start < 30:
        clips += len(next(batches))
    rate = clips / (time.perf_counter() - start)
    batches.close()  # type: ignore[attr-defined]
    return {
        "videos": "generated 1280 x 720, a key frame every 30",
        "workers": workers,
        "clips_per_second": rate,
    }


def _matmul_rate(device: torch.device) -> float:
    side = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    seconds = []
    for _ in range(13):
        _wait(device)
        start = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds[3:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _kept(models: list[str]) -> list[dict[str, Any]]:
    """Rows of earlier runs of other models on this card."""
    path = RESULTS / "gpu_pretrain.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return [
        row
        for row in rows
        if row["model"] not in models and row["accelerator"] == torch.cuda.get_device_name()
    ]


def _print(rows: list[dict[str, Any]], loader: dict[str, Any]) -> None:
    cells = []
    for row in rows:
        how = (
            f"{'compiled' if row['compiled'] else 'eager'}{', checkpointing' if row['checkpointing'] else ''}"
        )
        share = "-" if row["utilisation"] is None else f"{100 * row['utilisation']:.1f} %"
        of_rate = f"{100 * row['of_matmul_rate']:.1f} %"
        waits = loader["clips_per_second"] < row["clips_per_second"] if loader else None
        bound = "-" if waits is None else "loader" if waits else "GPU"
        timed = (row["batch"], 1000 * row["seconds"], row["clips_per_second"])
        cells.append(
            [f"{row['model']} {row['mask']}, {how}", *timed, share, of_rate, row["peak_bytes"] / 1e9, bound]
        )
    heads = ["step", "batch", "ms", "clips/s", "utilisation", "of matmul rate", "peak GB", "bound by"]
    show("pre-training on a GPU, bf16", heads, cells)
    if loader:
        print(f"loader alone: {loader['clips_per_second']:.0f} clips a second, {loader['workers']} processes")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["vit_b16", "vit_l16", "vit_g14"])
    parser.add_argument("--loader", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--work", type=Path, default=Path("runs/gpu_pretrain"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
