"""A block that is fast on a CPU: the same values from fewer passes over memory, and less of them saved."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from videomae2.models.cpu.attention import attend
from videomae2.models.cpu.linear import Bf16Linear, linear
from videomae2.models.cpu.recompute import Scratch, cut, norm_heads, norm_mlp
from videomae2.models.cpu.seam import has_ordinary_parameters, is_ordinary, is_untouched
from videomae2.models.layers import Attention, Block, DropPath, Mlp, scaled, take


class CpuBlock(Block):
    """A block whose forward looks whether it may be the fast one.

    `cpu.apply` makes it of a `Block`, and gives all blocks of a network one `scratch`.
    """

    scratch: Scratch

    def forward(
        self, x: Float[Tensor, "B N D"], chosen: Int[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B M D"]:
        """All tokens are attended to; with `chosen`, only those attend, pass the MLP and are returned."""
        if not (is_ordinary(x) and self._is_untouched()):
            return super().forward(x, chosen)
        queried = x if chosen is None else take(x, chosen)
        x = self._add(queried, self._attention(queried, x), 0)
        return self._add(x, self._mlp(x), 1)

    def _is_untouched(self) -> bool:
        """Whether every part is the one that `Block` made; hooks on the whole block do not matter."""
        attn, mlp = self.attn, self.mlp
        return (
            has_ordinary_parameters(self)
            and is_untouched(attn, Attention)
            and is_untouched(mlp, Mlp)
            and is_untouched(self.drop_path, DropPath)
            and all(is_untouched(norm, nn.LayerNorm) for norm in (self.norm1, self.norm2))
            and all(
                is_untouched(each, nn.Linear, Bf16Linear) for each in (attn.qkv, attn.proj, mlp.fc1, mlp.fc2)
            )
        )

    def _add(self, x: Tensor, branch: Tensor, number: int) -> Float[Tensor, "B M D"]:
        # The sum takes the branch's place, a tensor that nobody outside has seen: a tensor of its own would
        # leave a hole between those that are saved for the backward pass.
        branch = self.drop_path(scaled(branch, (self.gamma_1, self.gamma_2)[number]), number)
        return branch.to(x.dtype).add_(x)

    def _attention(
        self, queried: Float[Tensor, "B M D"], x: Float[Tensor, "B N D"]
    ) -> Float[Tensor, "B M D"]:
        """The residual branch of attention: the `queried` tokens of x attend to every token of x."""
        attn, scale = self.attn, None
        query, key, value = self._query_key_value(queried, x)
        if attn.scale is not None:
            query, key = (each.to(value.dtype) for each in attn.cosine(query, key, attn.scale))
            scale = 1.0
        attended = attend(query, key, value, scale)
        branch: Tensor = attn.proj(attended.transpose(1, 2).flatten(2))
        return branch

    def _query_key_value(self, queried: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Queries [B, heads, M, d], keys and values [B, heads, N, d]."""
        attn, width = self.attn, x.shape[-1]
        weight, no_bias = attn.qkv.weight, torch.zeros_like(attn.q_bias)
        if queried is x:
            return self._heads(x, weight, torch.cat((attn.q_bias, no_bias, attn.v_bias)), "qkv")
        # Queries of tokens that nobody asked for are not computed.
        query = self._heads(queried, weight[:width], attn.q_bias, "q")
        return *query, *self._heads(x, weight[width:], torch.cat((no_bias, attn.v_bias)), "kv")

    def _heads(self, x: Tensor, weight: Tensor, bias: Tensor, parts: str) -> tuple[Tensor, ...]:
        """The normalised x through a linear layer, cut into heads of queries "q", keys "k" or values "v"."""
        norm, num_heads = self.norm1, self.attn.num_heads
        if torch.is_grad_enabled():
            return norm_heads(x, norm, weight, bias, parts=parts, num_heads=num_heads, scratch=self.scratch)
        return cut(linear(norm(x), weight, bias), len(parts), num_heads)

    def _mlp(self, x: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """The residual branch of the MLP."""
        norm, mlp, fc1, fc2 = self.norm2, self.mlp, self.mlp.fc1, self.mlp.fc2
        if not torch.is_grad_enabled():
            return linear(linear(norm(x), fc1.weight, fc1.bias, gelu=True), fc2.weight, fc2.bias)
        return norm_mlp(x, norm, fc1, fc2, recompute=mlp.recompute and mlp.training, scratch=self.scratch)
