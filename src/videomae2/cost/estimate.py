"""The cost of a model by name, of a task and of a run: the arithmetic of `cost.py` and `memory.py`, asked and
told.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from videomae2.architecture import DecoderConfig, EncoderConfig, decoder_config, encoder_config
from videomae2.cost.memory import Execution, Memory, inference_memory, training_memory
from videomae2.cost.products import (
    Parts,
    Workload,
    computed_macs,
    count_parameters,
    device_hours,
    published_macs,
    require_positive,
)
from videomae2.cost.products import training_macs as training_macs_of
from videomae2.dimensions import Network, Tower
from videomae2.mask_counts import TokenCounts, count_tokens
from videomae2.settings import MaskSettings, ModelSettings


class Usual(NamedTuple):
    """What a task usually computes."""

    videos: int
    epochs: int
    views: int
    batch: int


# Videos: UnlabeledHybrid, Kinetics-400 training and validation (paper, 4.1 and appendix); the rest are our
# own defaults.
USUAL = {
    "pretrain": Usual(videos=1_348_000, epochs=300, views=4, batch=32),
    "finetune": Usual(videos=240_436, epochs=90, views=2, batch=16),
    "inference": Usual(videos=19_796, epochs=1, views=15, batch=1),
}
A100_TFLOPS = {"bf16": 312.0, "fp32": 19.5}  # dense, from its data sheet; the paper trained on A100s


@dataclass(frozen=True, kw_only=True)
class Question:
    """Which network, which task, and how it is run. None takes what is usual for the task."""

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


def answer(question: Question) -> dict[str, Any]:
    """Everything, as one JSON object: counts are numbers, memory is in bytes. UserError for what cannot
    be.
    """
    network, counts = _network(question), _counts(question)
    execution, workload = _execution(question), _workload(question)
    training = question.task != "inference"
    macs, ours, parameters = (
        published_macs(network, counts),
        computed_macs(network, counts),
        count_parameters(network),
    )
    again = question.checkpointing, question.mlp_checkpointing
    per_clip = training_macs_of(network, counts, *again) if training else ours.total
    clips = workload.training_clips() if training else workload.inference_clips()
    tflops = A100_TFLOPS[question.precision] if question.tflops is None else question.tflops
    hours = device_hours(per_clip * clips, tflops, question.utilisation)
    return {
        "model": question.model,
        "task": question.task,
        "grid": str(network.grid),
        "macs_per_clip": macs.total,
        "macs_per_clip_ours": ours.total,
        "macs_per_clip_step": per_clip,
        "parameters": parameters.total,
        "parts": _parts(macs, ours, parameters),
        "tokens": {
            "all": network.grid.num_tokens,
            **counts._asdict(),
            "decoder_length": _decoder_length(network, counts),
        },
        "memory_bytes": _memory(_estimate(question, network, counts, execution)),
        "execution": asdict(execution) | {"tflops": tflops, "utilisation": question.utilisation},
        "workload": asdict(workload),
        "clips": clips,
        "steps": workload.training_steps() if training else workload.inference_steps(),
        "gpu_hours": hours,
        "wall_hours": hours / workload.processes,
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
    return "\n".join(lines)


def network_of(settings: ModelSettings, num_classes: int = 0) -> Network:
    """The dimensions of the network that these settings build: with a decoder, or with a classifier of
    `num_classes`.
    """
    encoder = encoder_config(settings)
    decoder = None if num_classes else _tower(decoder_config(settings))
    return Network(encoder.grid, _tower(encoder), decoder, num_classes)


def _tower(config: EncoderConfig | DecoderConfig) -> Tower:
    return Tower(config.width, config.depth, config.num_heads, config.mlp_width)


def _network(question: Question) -> Network:
    require_positive("classes", question.classes)
    settings = ModelSettings(
        name=question.model,
        num_frames=question.frames,
        size=question.size,
        decoder_depth=question.decoder_depth,
    )
    return network_of(settings, 0 if question.task == "pretrain" else question.classes)


def _counts(question: Question) -> TokenCounts:
    grid = _network(question).grid
    if question.task != "pretrain":
        return TokenCounts(grid.num_tokens, 0, 0)
    mask = MaskSettings(
        encoder_ratio=question.encoder_ratio,
        decoder=question.decoder_mask,
        decoder_ratio=question.decoder_ratio,
        membership=question.membership,
    )
    return count_tokens(grid, mask)


def _workload(question: Question) -> Workload:
    usual = USUAL[question.task]._asdict()
    asked = {name: getattr(question, name) for name in usual if getattr(question, name) is not None}
    return Workload(**usual | asked, processes=question.processes)


def _execution(question: Question) -> Execution:
    return Execution(
        clips=_workload(question).clips_per_forward,
        precision=question.precision,
        checkpointing=question.checkpointing,
        mlp_checkpointing=question.mlp_checkpointing,
        device=question.device,
        processes=question.processes,
        shard=question.shard,
    )


def _recomputed(execution: dict[str, Any]) -> str:
    labels = {"checkpointing": ", checkpointing of blocks", "mlp_checkpointing": ", checkpointing of MLPs"}
    return "".join(label for name, label in labels.items() if execution[name])


def _estimate(question: Question, network: Network, counts: TokenCounts, execution: Execution) -> Memory:
    if question.task == "inference":
        return inference_memory(network, counts, execution)
    mixed = question.task == "finetune"  # mixup makes floats of the clips
    return training_memory(network, counts, execution, clip_bytes=4 if mixed else 1)


def _memory(memory: Memory) -> dict[str, int]:
    values = asdict(memory)
    peak = values.pop("peak")
    return {**values, "state": memory.state, "peak": peak}


def _parts(macs: Parts, ours: Parts, parameters: Parts) -> dict[str, dict[str, int]]:
    """By part, the parts that this network has."""
    return {
        name: {
            "macs_per_clip": getattr(macs, name),
            "macs_per_clip_ours": getattr(ours, name),
            "parameters": getattr(parameters, name),
        }
        for name in ("encoder", "decoder", "head")
        if getattr(parameters, name)
    }


def _decoder_length(network: Network, counts: TokenCounts) -> int:
    return counts.visible + counts.decoded if network.decoder else 0


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
