"""The command `videomae2 cost`: options in, one object or a table out; `macs.py` and `memory.py` reckon."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from videomae2.architecture import Architecture, architecture_of
from videomae2.cost.activations import Execution
from videomae2.cost.macs import (
    Workload,
    computed_macs,
    count_parameters,
    device_hours,
    published_macs,
    recomputed_macs,
    require_positive,
    training_macs,
)
from videomae2.cost.memory import inference_memory, training_memory
from videomae2.mask_counts import TokenCounts, count_tokens
from videomae2.settings import MaskSettings, ModelSettings

# What a task usually computes. Videos: UnlabeledHybrid, Kinetics-400 training and validation (paper, 4.1 and
# appendix); the rest are our own defaults.
USUAL = {
    "pretrain": Workload(videos=1_348_000, epochs=300, views=4, batch=32),
    "finetune": Workload(videos=240_436, epochs=90, views=2, batch=16),
    "inference": Workload(videos=19_796, epochs=1, views=15, batch=1),
}
A100_TFLOPS = {"bf16": 312.0, "fp32": 19.5}  # dense, from its data sheet; the paper trained on A100s


@dataclass(frozen=True, kw_only=True)
class Question:
    """The options of `videomae2 cost`: network, task and execution. None takes what is usual for the task.

    `answer` turns them into `ModelSettings` and `MaskSettings` at once; nothing else reads them.
    """

    model: str = "vit_b16"
    """vit_ti16, vit_s16, vit_b16, vit_l16, vit_h16 or vit_g14."""
    task: Literal["pretrain", "finetune", "inference"] = "pretrain"
    """What the network is used for: finetune and inference have a classifier and no masks."""
    decoder_mask: Literal["none", "running_cell", "random", "frame"] = "running_cell"
    """The decoder's mask in pre-training."""
    decoder_ratio: float = 0.5
    """Share of tokens the decoder leaves out."""
    membership: Literal["released", "unseen"] = "released"
    """Whether mask tokens stand at all kept positions, or only where the encoder was blind."""
    encoder_ratio: float = 0.9
    """Share of tokens hidden from the encoder in pre-training."""
    decoder_depth: int = 4
    """Blocks of the decoder."""
    frames: int = 16
    """Frames of a clip."""
    size: int = 224
    """Height and width of a clip in pixels."""
    classes: int = 400
    """Classes of the classifier."""
    batch: int | None = None
    """Videos of one process and one forward; 32 in pre-training, 16 in fine-tuning, 1 in inference."""
    views: int | None = None
    """Clips of each video, all in one forward; 4, 2 and 15."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: under autocast, weights in fp32."""
    checkpointing: bool = False
    """Recompute blocks in the backward pass (model.activation_checkpointing)."""
    mlp_checkpointing: bool = False
    """Recompute only the hidden values of MLPs (model.mlp_checkpointing)."""
    device: Literal["cuda", "cpu"] = "cuda"
    """A CPU keeps the scores of bf16 attention up to 256 tokens."""
    processes: int = 1
    """Processes that train together, one a device."""
    shard: Literal["none", "full"] = "none"
    """none: every process holds everything (DDP); full: parameters, gradients and optimizer are spread
    (FSDP2).
    """
    videos: int | None = None
    """Videos of the data; 1,348,000 (the paper's hybrid), and 240,436 or 19,796 (Kinetics-400)."""
    epochs: int | None = None
    """Passes over the videos; 300, 90 and 1."""
    tflops: float | None = None
    """A device's peak on its data sheet, for this precision; by default an A100's 312 (bf16) or 19.5
    (fp32).
    """
    utilisation: float = 0.4
    """Share of the peak that is reached, recomputation counted as work."""


@dataclass(frozen=True)
class Rate:
    """What a machine was measured to do: clips a second of one process, on a device, so many a forward."""

    clips_per_second: float
    device: str
    clips: int


def answer(question: Question, rate: Rate | None = None) -> dict[str, Any]:
    """Everything as one JSON object: counts are numbers, memory is in bytes. `rate` adds `measured`.

    UserError for options that no network or run can have.
    """
    require_positive("classes", question.classes)
    pretraining, training = question.task == "pretrain", question.task != "inference"
    architecture = architecture_of(
        model_of(question), decoder=pretraining, num_classes=0 if pretraining else question.classes
    )
    grid = architecture.grid
    counts = count_tokens(grid, mask_of(question)) if pretraining else TokenCounts(grid.num_tokens, 0, 0)
    workload = workload_of(question)
    execution = _execution(question, workload)
    parts = _parts(architecture, counts)
    forward = sum(part["macs_per_clip_ours"] for part in parts.values())
    backward = training_macs(architecture, counts) + recomputed_macs(architecture, counts) - forward
    per_clip = forward + backward if training else forward
    clips = workload.training_clips() if training else workload.inference_clips()
    tflops = A100_TFLOPS[question.precision] if question.tflops is None else question.tflops
    hours = device_hours(per_clip * clips, tflops, question.utilisation)
    measured = {}
    if rate is not None:
        took = clips / rate.clips_per_second / 3600
        measured = {"measured": {**asdict(rate), "hours": took / workload.processes}}
    return {
        "model": question.model,
        "task": question.task,
        "grid": str(grid),
        "macs_per_clip": sum(part["macs_per_clip"] for part in parts.values()),
        "macs_per_clip_ours": forward,
        "macs_per_clip_step": per_clip,
        "parameters": sum(part["parameters"] for part in parts.values()),
        "parts": parts,
        "tokens": {
            "all": grid.num_tokens,
            **counts._asdict(),
            "decoder_length": counts.visible + counts.decoded if pretraining else 0,
        },
        "memory_bytes": _memory(question.task, architecture, counts, execution),
        "execution": {
            "clips": execution.clips,
            "precision": execution.precision,
            "checkpointing": question.checkpointing,
            "device": execution.device,
            "processes": execution.processes,
            "shard": execution.shard,
            "mlp_checkpointing": question.mlp_checkpointing,
            "tflops": tflops,
            "utilisation": question.utilisation,
        },
        "workload": asdict(workload),
        "clips": clips,
        "steps": workload.training_steps() if training else workload.inference_steps(),
        "gpu_hours": hours,
        "wall_hours": hours / workload.processes,
        **measured,
    }


def table(found: dict[str, Any]) -> str:
    """The answer for people."""
    tokens, execution, workload = found["tokens"], found["execution"], found["workload"]
    training = found["task"] != "inference"
    names = list(found["parts"])
    rows = [["", "total", *names]]
    for key, label, unit, scale in (
        ("macs_per_clip", "forward, as the paper counts", " GMAC", 1e9),
        ("macs_per_clip_ours", "forward, as computed here", " GMAC", 1e9),
        ("parameters", "parameters", " M", 1e6),
    ):
        values = [found[key], *(found["parts"][name][key] for name in names)]
        rows.append([label, *(f"{value / scale:,.2f}{unit}" for value in values)])
    lines = [f"{found['model']} {found['task']}: {found['grid']}", "", *_aligned(rows), ""]
    if tokens["decoder_length"]:
        lines += [
            f"tokens: encoder sees {tokens['visible']}, decoder reads {tokens['decoder_length']}, "
            f"predicts {tokens['decoded']}, scored {tokens['scored']} of {tokens['all']}",
            "",
        ]
    clips = workload["batch"] * workload["views"]
    recomputed = _recomputed(execution) if training else ""
    lines.append(
        f"memory of one process: {clips} clips, {execution['precision']} on {execution['device']}{recomputed}"
    )
    lines += _aligned(
        [[f"  {name}", f"{size / 2**30:.2f} GiB"] for name, size in found["memory_bytes"].items() if size]
    )
    what = (
        "forward, backward and recomputation"
        if recomputed
        else "forward and backward"
        if training
        else "forward"
    )
    lines += [
        "",
        f"run: {workload['videos']:,} videos x {workload['views']} views x {workload['epochs']} epochs, "
        f"{workload['processes']} processes x batch {workload['batch']} = {found['steps']:,} steps, "
        f"{found['clips']:,} clips",
        f"{what}: {found['macs_per_clip_step'] / 1e9:,.2f} GMAC a clip; at "
        f"{100 * execution['utilisation']:g} % of "
        f"{execution['tflops']:g} TFLOP/s: {found['gpu_hours']:,.1f} device-hours, "
        f"{found['wall_hours']:,.1f} hours",
    ]
    if "measured" in found:
        rate = found["measured"]
        lines.append(
            f"measured here: {rate['clips_per_second']:.3g} clips a second on {rate['device']}, "
            f"{rate['clips']} a forward, without decoding: {duration(rate['hours'])} for this run"
        )
    return "\n".join(lines)


def duration(hours: float) -> str:
    """Hours as people say them: minutes below one and a half, days above two."""
    if hours < 1.5:
        return f"{60 * hours:.3g} minutes"
    return f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.0f} days"


def model_of(question: Question) -> ModelSettings:
    """The settings of the network in question."""
    return ModelSettings(
        name=question.model,
        num_frames=question.frames,
        size=question.size,
        decoder_depth=question.decoder_depth,
        activation_checkpointing=question.checkpointing,
        mlp_checkpointing=question.mlp_checkpointing,
    )


def mask_of(question: Question) -> MaskSettings:
    """The masks of pre-training in question."""
    return MaskSettings(
        encoder_ratio=question.encoder_ratio,
        decoder=question.decoder_mask,
        decoder_ratio=question.decoder_ratio,
        membership=question.membership,
    )


def workload_of(question: Question) -> Workload:
    """How many videos, epochs, views and processes: those in question, the usual ones elsewhere."""
    given = {name: getattr(question, name) for name in ("videos", "epochs", "views", "batch")}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(USUAL[question.task], **given, processes=question.processes)


def _execution(question: Question, workload: Workload) -> Execution:
    return Execution(
        clips=workload.clips_per_forward,
        precision=question.precision,
        device=question.device,
        processes=question.processes,
        shard=question.shard,
    )


def _memory(
    task: str, architecture: Architecture, counts: TokenCounts, execution: Execution
) -> dict[str, int]:
    if task == "inference":
        memory = inference_memory(architecture, counts, execution)
    else:
        mixed = task == "finetune"  # mixup makes floats of the clips
        memory = training_memory(architecture, counts, execution, clip_bytes=4 if mixed else 1)
    values = asdict(memory)
    peak = values.pop("peak")
    return {**values, "state": memory.state, "peak": peak}


def _parts(architecture: Architecture, counts: TokenCounts) -> dict[str, dict[str, int]]:
    """Three numbers for each part that this network has."""
    numbers = {
        "macs_per_clip": published_macs(architecture, counts),
        "macs_per_clip_ours": computed_macs(architecture, counts),
        "parameters": count_parameters(architecture),
    }
    return {
        part: {key: getattr(parts, part) for key, parts in numbers.items()}
        for part in ("encoder", "decoder", "head")
        if getattr(numbers["parameters"], part)
    }


def _recomputed(execution: dict[str, Any]) -> str:
    labels = {"checkpointing": ", checkpointing of blocks", "mlp_checkpointing": ", checkpointing of MLPs"}
    return "".join(label for name, label in labels.items() if execution[name])


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns side by side: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
