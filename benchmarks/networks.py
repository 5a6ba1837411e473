"""Training steps and forwards to be timed, ours and those of `transformers`: same sizes, clips, optimizer and
threads.

Ours starts from uint8 clips and draws its masks; the peer is given normalised pixels and a mask, which costs
it nothing.
"""

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from live_bytes import LiveBytes
from pairs import Call, medians, peak_rss, programs, ratio, take_turns
from torch import Tensor, nn
from torch.nn import functional as F

from videomae2.architecture import IMAGENET_MEAN, IMAGENET_STD, SIZES
from videomae2.engine.device import keep_freed_memory
from videomae2.engine.optim import build_optimizer
from videomae2.geometry import TokenGrid
from videomae2.heads.classify import build_classifier
from videomae2.labels import Unlabelled
from videomae2.models import cpu
from videomae2.models.build import build_autoencoder
from videomae2.recipes.pretrain import Pretraining
from videomae2.records import Batch
from videomae2.settings import MaskSettings, ModelSettings, OptimSettings, TargetSettings
from videomae2.targets import soft_cross_entropy

CLASSES = 400
GRID = TokenGrid.square()


@dataclass(frozen=True)
class Work:
    """What a program computes. `keep_memory` lets glibc reuse freed memory, as our loop does and a peer's
    user does not.
    """

    model: str
    task: str
    """pretrain, finetune or inference."""
    batch: int
    peer: bool = False
    precision: str = "fp32"
    mask: MaskSettings | None = None
    keep_memory: bool = True
    compiled: bool = False
    mlp_checkpointing: bool = False

    @property
    def name(self) -> str:
        """In a table."""
        side = "transformers" if self.peer else "ours"
        extras = [self.precision, *(["compiled"] if self.compiled else [])]
        if self.mlp_checkpointing:
            extras.append("MLPs checkpointed")
        if self.mask is not None:
            extras.append(
                self.mask.decoder + (f" {self.mask.membership}" if self.mask.decoder != "none" else "")
            )
        if self.peer and self.keep_memory:
            extras.append("our allocator setting")
        return f"{side}, {', '.join(extras)}"


def compare(
    peers: list[Work], ours: list[Work], pairs: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All in turn: a row for each, the peers' first, and how many times as fast each of ours is as each
    peer.
    """
    works = [*peers, *ours]
    with programs(*((prepare, work) for work in works)) as running:
        turns = take_turns(running, pairs)
    rows = [
        {"model": work.model, "what": work.name, **medians(taken)}
        for work, taken in zip(works, turns, strict=True)
    ]
    for row, work in zip(rows, works, strict=True):
        row["clips_per_second"] = round(work.batch / row["seconds"], 3)
    taken = dict(zip(works, turns, strict=True))
    gains = [
        {
            "model": mine.model,
            "gain": f"{mine.name} over {peer.name}",
            "faster": ratio(taken[peer], taken[mine]),
        }
        for peer in peers
        for mine in ours
    ]
    return rows, gains


def prepare(work: Work) -> Call:
    """The function of one turn; it reports seconds of each part and the most bytes of memory: `peak_bytes` of
    the process above what the imports hold, `live_bytes` of tensors alive at once in an earlier step.
    """
    # As the command line does; whoever waits by spinning slows the next program.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    warnings.filterwarnings("ignore")
    if work.keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    side = torch.randn(1024, 1024)
    F.linear(side, side)  # the libraries' own memory
    if work.peer:
        import transformers

        transformers.logging.set_verbosity_error()
    base = peak_rss()
    module, forward = (_peer if work.peer else _ours)(work)
    call = _inference(work, forward) if work.task == "inference" else _training(work, module, forward)
    live = 0 if work.compiled else _live_bytes(module, call)

    def turn() -> dict[str, float]:
        return {**call(), "peak_bytes": float(peak_rss() - base), "live_bytes": float(live)}

    return turn


def _live_bytes(module: nn.Module, call: Call) -> int:
    """Most bytes of tensors at once in the second step, when the optimizer's averages are there."""
    with LiveBytes() as alive:
        alive.add_module(module)
        call()
        alive.peak = alive.now
        call()
    return alive.peak


def _training(work: Work, module: nn.Module, loss: Callable[[], Tensor]) -> Call:
    module.train()
    optimizer = build_optimizer(module, OptimSettings())  # AdamW, fused, on both sides

    def turn() -> dict[str, float]:
        times = [time.perf_counter()]
        with torch.autocast("cpu", torch.bfloat16, enabled=work.precision == "bf16"):
            value = loss()
        times.append(time.perf_counter())
        value.backward()
        times.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter())
        return {
            part: end - start
            for part, start, end in zip(("forward", "backward", "optimizer"), times, times[1:], strict=False)
        }

    return turn


def _inference(work: Work, forward: Callable[[], Tensor]) -> Call:
    def turn() -> dict[str, float]:
        # Ours needs no autocast (`for_inference`).
        autocast = work.peer and work.precision == "bf16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            forward()
        return {}

    return turn


def _ours(work: Work) -> tuple[nn.Module, Callable[[], Tensor]]:
    settings = ModelSettings(name=work.model, mlp_checkpointing=work.mlp_checkpointing)
    frames, rows = _frames(work.batch), torch.arange(work.batch)
    if work.task == "pretrain":
        assert work.mask is not None
        network = cpu.apply(build_autoencoder(settings))
        task = Pretraining(network, work.mask, TargetSettings())
        batch = Batch(frames, rows, torch.zeros_like(rows), Unlabelled(work.batch))
        if work.compiled:
            network.compile()
        return network, lambda: task.step(network, batch, 0).loss
    classifier = cpu.apply(build_classifier(settings, CLASSES)).eval()
    if work.task == "inference":
        cpu.for_inference(classifier, work.precision)
    if work.compiled:
        classifier.compile()
    if work.task == "inference":
        return classifier, lambda: classifier(frames)
    targets = F.one_hot(rows, CLASSES).float()
    return classifier, lambda: soft_cross_entropy(classifier(frames), targets)


def _peer(work: Work) -> tuple[nn.Module, Callable[[], Tensor]]:
    from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification

    pixels, rows = _normalised(_frames(work.batch)), torch.arange(work.batch)
    if work.task == "pretrain":
        module: Any = VideoMAEForPreTraining(_configuration(work.model))
        hidden = torch.rand(work.batch, GRID.tokens_per_step).argsort(1) < int(0.9 * GRID.tokens_per_step)
        mask = hidden.repeat(1, GRID.num_steps)
        return module, lambda: module(pixels, bool_masked_pos=mask).loss
    module = VideoMAEForVideoClassification(_configuration(work.model)).eval()
    if work.compiled:
        module.compile()
    if work.task == "inference":
        return module, lambda: module(pixels).logits
    targets = F.one_hot(rows, CLASSES).float()
    return module, lambda: soft_cross_entropy(module(pixels).logits, targets)


def _configuration(name: str) -> Any:
    from transformers import VideoMAEConfig

    size = SIZES[name]
    return VideoMAEConfig(
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.num_heads,
        intermediate_size=size.mlp_width,
        decoder_hidden_size=size.decoder_width,
        decoder_num_attention_heads=size.decoder_heads,
        decoder_intermediate_size=size.decoder_width * size.mlp_width // size.width,
        decoder_num_hidden_layers=4,
        num_labels=CLASSES,
    )


def _frames(batch: int) -> Tensor:
    return torch.randint(
        0, 256, GRID.clip_shape(batch), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def _normalised(frames: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (frames.float() / 255 - mean) / std
