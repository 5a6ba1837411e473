"""Transformer parts, as released: no key bias, LayerNorm eps 1e-6, optional cosine attention and
LayerScale.
"""

import math
from collections.abc import Iterable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from videomae2.models import attention_bf16
from videomae2.models.lean import empty_part, norm_heads, norm_mlp
from videomae2.models.modes import only_infers, trains_eagerly
from videomae2.models.scratch import scratch

LayerNorm = partial(nn.LayerNorm, eps=1e-6)

INITIAL_LOG_SCALE = math.log(10.0)
_MAX_LOG_SCALE = math.log(100.0)  # released: cosine similarities are multiplied by at most 100

APART_FROM = 512
"""Tokens from which fp32 attention on a CPU is faster over copies of queries, keys and values than side by
side.
"""


def take(x: Float[Tensor, "B N D"], chosen: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
    """The chosen tokens of each sample."""
    return x.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))


def run_blocks(
    blocks: Iterable[nn.Module],
    x: Float[Tensor, "B N D"],
    recompute: bool,
    chosen: Int[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B M D"]:
    """All blocks in turn, the last only for the `chosen` tokens; `recompute` rebuilds activations in the
    backward pass.
    """
    *first, last = blocks
    for block in first:
        x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
    return checkpoint(last, x, chosen, use_reentrant=False) if recompute else last(x, chosen)


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled by LayerScale (0: none) and dropped for whole samples by drop
    path.
    """

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
        self.drop_path = DropPath(drop_path, inplace=True)
        self.layer_scale = layer_scale
        self.gamma_1 = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None
        self.gamma_2 = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None

    def forward(
        self, x: Float[Tensor, "B N D"], chosen: Int[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B M D"]:
        """All tokens are attended to; with `chosen`, only those attend, pass the MLP and are returned."""
        asking = x if chosen is None else take(x, chosen)
        x = self._add(asking, self.attn(asking, x, self.norm1), self.gamma_1)
        return self._add(x, self.mlp(x, self.norm2), self.gamma_2)

    def _add(self, x: Tensor, branch: Tensor, gamma: Tensor | None) -> Tensor:
        branch = self.drop_path(branch if gamma is None else branch * gamma)
        if torch.compiler.is_compiling():
            return x + branch
        # The sum takes the branch's place: no hole is left beside what is kept for the backward pass, and no
        # new memory paged in.
        return branch.to(x.dtype).add_(x)


class Attention(nn.Module):
    """Multi-head self-attention with learned query and value biases and a key bias fixed at zero."""

    def __init__(self, width: int, num_heads: int, *, cosine: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10.0))) if cosine else None
        self.proj = nn.Linear(width, width)

    def forward(
        self, asking: Float[Tensor, "B M D"], x: Float[Tensor, "B N D"], norm: nn.LayerNorm
    ) -> Float[Tensor, "B M D"]:
        """The `asking` tokens, some or all of `x`, attend to every token of `x`; both are normed first."""
        query, key, value = self._heads(asking, x, norm)
        if self.scale is None:
            attended = attend(query, key, value)
        else:
            query = F.normalize(query, dim=-1) * self.scale.clamp(max=_MAX_LOG_SCALE).exp()
            attended = attend(
                query.to(value.dtype), F.normalize(key, dim=-1).to(value.dtype), value, scale=1.0
            )
        return self.proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, asking: Tensor, x: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, ...]:
        """Queries [B, heads, M, d], keys and values [B, heads, N, d]."""
        weight, no_bias = self.qkv.weight, torch.zeros_like(self.q_bias)
        if asking is x:
            bias = torch.cat((self.q_bias, no_bias, self.v_bias))
            return norm_heads(x, norm, weight, bias, parts="qkv", num_heads=self.num_heads)
        width = x.shape[-1]
        query = norm_heads(asking, norm, weight[:width], self.q_bias, parts="q", num_heads=self.num_heads)
        bias = torch.cat((no_bias, self.v_bias))
        return *query, *norm_heads(x, norm, weight[width:], bias, parts="kv", num_heads=self.num_heads)


def attend(
    query: Float[Tensor, "B heads M d"],
    key: Float[Tensor, "B heads N d"],
    value: Float[Tensor, "B heads N d"],
    scale: float | None = None,
) -> Float[Tensor, "B heads M d"]:
    """softmax(query key^T * scale) value; scale is d ** -0.5 unless given."""
    if query.device.type == "cpu":
        if query.dtype == torch.bfloat16 and trains_eagerly():
            return attention_bf16.attend(
                query, key, value, query.shape[-1] ** -0.5 if scale is None else scale
            )
        if query.dtype == torch.float32 and only_infers() and key.shape[2] >= APART_FROM:
            query, key, value = (_apart(part, x) for part, x in zip("qkv", (query, key, value), strict=True))
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def _apart(part: str, x: Float[Tensor, "B heads N d"]) -> Float[Tensor, "B heads N d"]:
    """A copy of x that lies by itself, until the next one."""
    return empty_part(part, partial(scratch, part, x), tuple(x.shape)).copy_(x)


class Mlp(nn.Module):
    """Two linear layers around an exact GELU; `recompute` makes the hidden values again in the backward pass
    of training.
    """

    def __init__(self, width: int, hidden: int, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B N D"], norm: nn.LayerNorm) -> Float[Tensor, "B N D"]:
        """Each token, normed, by itself."""
        return norm_mlp(x, norm, self.fc1, self.fc2, self.recompute and self.training)


class DropPath(nn.Module):
    """In training, drops a residual branch for whole samples with probability `rate`, and scales up the
    others.

    It draws from torch's generator, as dropout does: who trains seeds that generator from (seed, step) at
    each step, inside `torch.random.fork_rng`, and a resumed run drops the same branches.
    """

    def __init__(self, rate: float, inplace: bool = False) -> None:
        super().__init__()
        self.rate = rate
        self.inplace = inplace

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The branch, zero for the dropped samples; with `inplace`, in the place of the branch that came."""
        if self.rate == 0 or not self.training:
            return x
        kept = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.rate
        factor = (kept / (1 - self.rate)).to(x.dtype)
        return x.mul_(factor) if self.inplace else x * factor

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
