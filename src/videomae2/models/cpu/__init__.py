"""What makes a CPU fast, behind one seam: `apply` puts it into a network, `remove` takes it out again.

Blocks and tokenizers get another class, and with it another `forward` of the same values; parameters, names
in checkpoints, hooks and copies are untouched. At each call such a module looks whether it is used as it was
written (`seam.py`), and otherwise runs the plain forward. Nothing it returns is written to again. Gradients
that were computed here have no derivative of their own: second derivatives need `remove`.
"""

from typing import Any, TypeVar, cast

import torch
from torch import nn

from videomae2.models.cpu.block import CpuBlock
from videomae2.models.cpu.linear import Bf16CubeEmbedding, Bf16Linear, CpuTokenizer
from videomae2.models.cpu.recompute import Scratch
from videomae2.models.encoder import CubeEmbedding, Tokenizer
from videomae2.models.layers import Block

M = TypeVar("M", bound=nn.Module)


def apply(network: M) -> M:
    """Make a network faster on a CPU; it comes back itself, and is unchanged on other devices.

    To be called before a network is wrapped or compiled; a second call changes nothing. Modules that are not
    exactly ours are left alone.
    """
    scratch = Scratch()
    for module in network.modules():
        if type(module) is Block:
            module.__class__ = CpuBlock
            cast(CpuBlock, module).scratch = scratch  # one for all: blocks run one after the other
        elif type(module) is Tokenizer:
            module.__class__ = CpuTokenizer
    return network


def remove(network: M) -> M:
    """Give a network the plain layers back that it was built of; it comes back itself."""
    for module in network.modules():
        if type(module) is CpuBlock:
            del module.scratch
            module.__class__ = Block  # type: ignore[assignment]
        elif type(module) is CpuTokenizer:
            module.__class__ = Tokenizer  # type: ignore[assignment]
    return network


def for_inference(network: M, precision: str) -> M:
    """Put a network in evaluation mode and make it fast in `precision`, "fp32" or "bf16"; it comes back.

    For "bf16" its linear layers keep their weights in bf16, and each computes what it does under bf16
    autocast, whether or not one is open: to the bit the same, without the casts of all weights at every
    forward, a tenth of the time of one clip on a CPU. Such a network cannot be trained any further.
    """
    apply(network.eval())
    if precision == "bf16":
        for module in network.modules():
            if isinstance(module, nn.Linear) and not isinstance(module, Bf16Linear):
                if type(module) is nn.Linear:
                    module.__class__ = Bf16Linear
                else:  # a linear layer of somebody else, whose class says how it computes
                    module.register_forward_pre_hook(_cast_input)
                module.to(torch.bfloat16)
            elif type(module) is CubeEmbedding:
                module.__class__ = Bf16CubeEmbedding
    return network


def _cast_input(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return given[0].to(torch.bfloat16), *given[1:]
