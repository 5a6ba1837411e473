"""Transformer parts, as released: no key bias, LayerNorm eps 1e-6, optional cosine attention and LayerScale.

Plain PyTorch: every module is called, so that hooks, adapters, pruning and quantisation find what they
expect. What makes a CPU fast is in `models/cpu/`.
"""

import math
from collections.abc import Iterable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from videomae2 import chance

LayerNorm = partial(nn.LayerNorm, eps=1e-6)

INITIAL_LOG_SCALE = math.log(10.0)
_MAX_LOG_SCALE = math.log(100.0)  # released: cosine similarities are multiplied by at most 100


def take(x: Float[Tensor, "B N D"], chosen: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
    """The chosen tokens of each sample."""
    return x.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))


def run_blocks(
    blocks: Iterable[nn.Module],
    x: Float[Tensor, "B N D"],
    recompute: bool,
    chosen: Int[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B M D"]:
    """Run all blocks in turn, the last only for the `chosen` tokens.

    With `recompute` a block saves its input alone; the backward pass computes its activations anew.
    """
    *first, last = blocks
    for block in first:
        x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
    x = checkpoint(last, x, chosen, use_reentrant=False) if recompute else last(x, chosen)
    return x


class Block(nn.Module):
    """Pre-norm attention and MLP, with LayerScale (0: none) and drop path on each residual branch."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_width: int,
        *,
        drop_path: float = 0.0,
        cosine_attention: bool = False,
        layer_scale: float = 0.0,
        mlp_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, num_heads, cosine=cosine_attention)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, mlp_width, mlp_checkpointing)
        self.drop_path = DropPath(drop_path)
        self.layer_scale = layer_scale
        self.gamma_1 = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None
        self.gamma_2 = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None

    def forward(
        self, x: Float[Tensor, "B N D"], chosen: Int[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B M D"]:
        """All tokens are attended to; with `chosen`, only those attend, pass the MLP and are returned."""
        residual = x if chosen is None else take(x, chosen)
        x = residual + self.drop_path(scaled(self.attn(self.norm1(x), chosen), self.gamma_1), 0)
        x = x + self.drop_path(scaled(self.mlp(self.norm2(x)), self.gamma_2), 1)
        return x


def scaled(branch: Float[Tensor, "B N D"], gamma: Float[Tensor, "D"] | None) -> Float[Tensor, "B N D"]:
    """LayerScale: a learned factor for each channel of a residual branch, if the network has it."""
    return branch if gamma is None else branch * gamma


class Attention(nn.Module):
    """Multi-head self-attention with learned query and value biases and a key bias fixed at zero."""

    def __init__(self, width: int, num_heads: int, *, cosine: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.full((num_heads, 1, 1), INITIAL_LOG_SCALE)) if cosine else None
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B N D"], chosen: Int[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B M D"]:
        """The `chosen` tokens (None: all) attend to every token of x."""
        # The bias is added after the linear layer, and not by it, so that an adapter may wrap the layer.
        joint = self.qkv(x)
        joint = joint + torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias)).to(joint.dtype)
        query, key, value = joint.chunk(3, dim=-1)
        if chosen is not None:
            query = take(query, chosen)
        attended = self.attend(*(self._heads(each) for each in (query, key, value)))
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out

    def attend(
        self,
        query: Float[Tensor, "B heads M d"],
        key: Float[Tensor, "B heads N d"],
        value: Float[Tensor, "B heads N d"],
    ) -> Float[Tensor, "B heads M d"]:
        """softmax(query key^T / sqrt(d)) value, or cosine attention where this module has a scale."""
        if self.scale is None:
            return F.scaled_dot_product_attention(query, key, value)
        query, key = self.cosine(query, key, self.scale)
        return F.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value, scale=1.0)

    @staticmethod
    def cosine(
        query: Float[Tensor, "B heads M d"],
        key: Float[Tensor, "B heads N d"],
        log_scale: Float[Tensor, "heads 1 1"],
    ) -> tuple[Float[Tensor, "B heads M d"], Float[Tensor, "B heads N d"]]:
        """Queries and keys whose dot product is their cosine times a learned factor of each head."""
        factor = log_scale.clamp(max=_MAX_LOG_SCALE).exp()
        return F.normalize(query, dim=-1) * factor, F.normalize(key, dim=-1)

    def _heads(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B heads N d"]:
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads


class Mlp(nn.Module):
    """Two linear layers around an exact GELU; with `recompute`, training saves no hidden value."""

    def __init__(self, width: int, hidden: int, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Each token by itself."""
        if self.recompute and self.training:
            # Nothing in here draws random numbers, so torch need not keep their generator's state.
            out: Tensor = checkpoint(self._layers, x, use_reentrant=False, preserve_rng_state=False)
            return out
        return self._layers(x)

    def _layers(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class DropPath(nn.Module):
    """In training, drops a residual branch for whole samples with probability `rate`, and scales up the rest.

    It draws from torch's generator, as dropout does, unless `drop_by_sample` has said what is drawn.
    """

    drawn: Tensor | None = None
    """Numbers in [0, 1) for each branch of a block and each sample, [2, B]."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B N D"], branch: int = 0) -> Float[Tensor, "B N D"]:
        """The branch, zero for the dropped samples; `branch` is 0 for attention, 1 for the MLP."""
        if self.rate == 0 or not self.training:
            return x
        drawn = torch.rand(x.shape[0], device=x.device) if self.drawn is None else self.drawn[branch]
        kept = drawn[:, None, None] >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)

    def extra_repr(self) -> str:
        """What the module's printed name says."""
        return f"rate={self.rate}"


def drop_by_sample(network: nn.Module, keys: Int[Tensor, "B"]) -> None:
    """Draw every drop path of the next forward from the samples' own `keys`, whatever batch they stand in.

    So a sample loses the same branches in a batch of any size, on any process. What was drawn stays until the
    next call, since activation checkpointing computes a forward again in the backward pass.
    """
    paths = [module for module in network.modules() if isinstance(module, DropPath) and module.rate > 0]
    if not paths:
        return
    # One draw for all: a kernel for each of eighty branches would cost more than it computes.
    drawn = chance.uniform(keys, 2 * len(paths)).to(torch.float32).t().contiguous()
    for path, own in zip(paths, drawn.split(2), strict=True):
        path.drawn = own
