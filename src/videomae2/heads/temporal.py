"""Temporal detection: a pyramid of local transformers over features, with classes and ends at each point.

As in ActionFormer (ECCV 2022), the detector of the paper's temporal experiments (paper 4.3): written from its
formulas and held to numbers recorded from its code. Sequences are [B, L, D]; `valid` [B, L] marks what is no
padding, and padding is set to zero wherever the released code does so, because its convolutions see it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from videomae2.models.layers import DropPath
from videomae2.settings import LocalizeModel

MOMENTUM = 0.9
"""Of the running number of positive points that the losses are divided by (released)."""
PRIOR = 0.01
"""The score of every class at the start, so that the many negatives do not drown training (RetinaNet)."""
RESIDUAL_SCALE = 1e-4
"""Initial factor of each residual branch, where paths are dropped (released)."""
QUERIES_AT_ONCE = 16
"""Queries of a block share the keys of a window; more would compute more pairs that the window leaves out."""

Sequence = Float[Tensor, "B L D"]
Valid = Bool[Tensor, "B L"]
Shorter = Bool[Tensor, "B M"]
"""As valid, of a sequence that a stride has made shorter: M = ceil(L / stride)."""


class Predictions(NamedTuple):
    """What a network says about the P points of its pyramid, all levels one after another.

    offsets are distances to start and end in strides of the point's level. normalizer is the running number
    of positive points.
    """

    logits: Float[Tensor, "B P K"]
    offsets: Float[Tensor, "B P 2"]
    valid: Bool[Tensor, "B P"]
    normalizer: Float[Tensor, ""]


class TimeConv(nn.Conv1d):
    """A convolution over the L of a sequence [B, L, D], as long as before or a stride shorter."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, **options: int | bool) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, **options)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B M D"]:
        """The convolved sequence."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ConvNorm(nn.Module):
    """Convolution, zero where padded, norm, ReLU."""

    def __init__(self, inputs: int, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = TimeConv(inputs, width, kernel, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B L C"], valid: Valid) -> Sequence:
        """The sequence in `width` channels. Padding is not zero: the norm has a bias."""
        return F.relu(self.norm(_kept(self.conv(x), valid)))


class LocalAttention(nn.Module):
    """Multi-head attention of each position to those within half a window of it; window 0: to all.

    Queries, keys and values come from depthwise convolutions, which a stride makes shorter.
    """

    def __init__(self, width: int, num_heads: int, window: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.reach = num_heads, window // 2
        for name in ("query", "key", "value"):
            conv = TimeConv(width, width, stride=stride, groups=width, bias=False)
            self.add_module(f"{name}_conv", conv)
            self.add_module(f"{name}_norm", nn.LayerNorm(width))
            self.add_module(name, nn.Linear(width, width))
        self.proj = nn.Linear(width, width)
        self.attention_dropout, self.dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Sequence, valid: Shorter) -> Float[Tensor, "B M D"]:
        """The attended sequence; `valid` is that of the result."""
        query, key, value = (self._heads(name, x, valid) for name in ("query", "key", "value"))
        query = query * query.shape[-1] ** -0.5
        mixed = self._local(query, key, value, valid) if self.reach else self._all(query, key, value, valid)
        return _kept(self.dropout(self.proj(mixed.transpose(1, 2).flatten(2))), valid)

    def _heads(self, name: str, x: Sequence, valid: Shorter) -> Float[Tensor, "B h M d"]:
        shortened = _kept(getattr(self, f"{name}_conv")(x), valid)
        projected: Tensor = getattr(self, name)(getattr(self, f"{name}_norm")(shortened))
        heads: Tensor = projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads

    def _weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        # The lowest number rather than minus infinity: a padded query may see no key at all, and NaN would
        # come back through its gradient although its output is dropped.
        hidden = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        weights: Tensor = self.attention_dropout(hidden.softmax(-1))
        return weights

    def _all(self, query: Tensor, key: Tensor, value: Tensor, valid: Valid) -> Tensor:
        return self._weights(query @ key.transpose(-2, -1), valid[:, None, None]) @ value

    def _local(self, query: Tensor, key: Tensor, value: Tensor, valid: Valid) -> Tensor:
        """Blocks of queries against the keys of all their windows, [B, h, blocks, block, keys]."""
        length, half, block = query.shape[2], self.reach, max(QUERIES_AT_ONCE, self.reach)
        missing = -length % block
        queries = F.pad(query, (0, 0, 0, missing)).unflatten(2, (-1, block))
        keys, values = (
            F.pad(each, (0, 0, half, half + missing)).unfold(2, block + 2 * half, block)  # [B, h, n, d, keys]
            for each in (key, value)
        )
        there = F.pad(valid, (half, half + missing)).unfold(1, block + 2 * half, block)
        distance = (
            torch.arange(block + 2 * half, device=query.device)
            - torch.arange(block, device=query.device)[:, None]
        )
        near = (distance >= 0) & (distance <= 2 * half)
        weights = self._weights(queries @ keys, near & there[:, None, :, None])
        return (weights @ values.transpose(-2, -1)).flatten(2, 3)[:, :, :length]


class LocalBlock(nn.Module):
    """Local attention and an MLP, each with a norm before it; a stride of 2 halves the sequence."""

    def __init__(self, model: LocalizeModel, window: int, stride: int) -> None:
        super().__init__()
        width = model.width
        self.stride = stride
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = LocalAttention(width, model.num_heads, window, stride, model.dropout)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(model.dropout)
        self.drop_path = DropPath(model.drop_path)
        # The released network has these factors only where paths are dropped.
        scaled = model.drop_path > 0
        self.scale1 = nn.Parameter(torch.full((width,), RESIDUAL_SCALE)) if scaled else None
        self.scale2 = nn.Parameter(torch.full((width,), RESIDUAL_SCALE)) if scaled else None

    def forward(self, x: Sequence, valid: Valid) -> tuple[Float[Tensor, "B M D"], Shorter]:
        """The sequence and what is valid in it, both shorter by the stride."""
        valid = valid[:, :: self.stride]
        attended = self._branch(self.attn(self.norm1(x), valid), self.scale1)
        x = _kept(self._shortcut(x), valid) + attended
        hidden = self.dropout(F.gelu(self.fc1(self.norm2(x))))
        return x + self._branch(_kept(self.dropout(self.fc2(hidden)), valid), self.scale2), valid

    def _branch(self, x: Sequence, scale: Tensor | None) -> Sequence:
        dropped: Tensor = self.drop_path(x if scale is None else x * scale)
        return dropped

    def _shortcut(self, x: Sequence) -> Float[Tensor, "B M D"]:
        if self.stride == 1:
            return x
        pooled = F.max_pool1d(x.transpose(1, 2), self.stride + 1, self.stride, (self.stride + 1) // 2)
        return pooled.transpose(1, 2)


class PointHead(nn.Module):
    """Convolutions that all levels of the pyramid share, and one number or more for each point."""

    def __init__(self, model: LocalizeModel, outputs: int) -> None:
        super().__init__()
        width, kernel = model.width, model.kernel
        self.layers = nn.ModuleList(ConvNorm(width, width, kernel) for _ in range(model.head_layers - 1))
        self.out = TimeConv(width, outputs, kernel)

    def forward(self, x: Sequence, valid: Valid) -> Float[Tensor, "B L n"]:
        """The numbers of each point, zero where padded."""
        for layer in self.layers:
            x = layer(x, valid)
        return _kept(self.out(x), valid)


class Localizer(nn.Module):
    """The detector: features of windows -> class logits and distances to both ends, at each level's points.

    num_inputs is the width of a feature. `normalizer` is a buffer, so that a resumed run divides its losses
    by what an uninterrupted one does (the released code keeps a Python float, which a checkpoint loses).
    """

    normalizer: Tensor

    def __init__(
        self,
        model: LocalizeModel,
        num_inputs: int,
        num_classes: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.model, self.num_inputs, self.num_classes = model, num_inputs, num_classes
        width = model.width
        self.embed = nn.ModuleList(
            ConvNorm(width if place else num_inputs, width, model.kernel)
            for place in range(model.embed_layers)
        )
        local = model.levels - model.global_levels
        windows = [model.window if level < local else 0 for level in range(model.levels)]
        self.stem = nn.ModuleList(LocalBlock(model, windows[0], 1) for _ in range(model.stem_blocks))
        self.pyramid = nn.ModuleList(LocalBlock(model, window, 2) for window in windows[1:])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in windows)
        self.classify, self.regress = PointHead(model, num_classes), PointHead(model, 2)
        self.scales = nn.Parameter(torch.ones(model.levels))
        self.register_buffer("normalizer", torch.tensor(float(model.first_normalizer)))
        _initialize(self, generator)

    def forward(
        self,
        features: Float[Tensor, "B L C"],
        lengths: Int[Tensor, "B"],
        positives: Int[Tensor, ""] | None = None,
    ) -> Predictions:
        """Predictions for padded sequences of these lengths; L is from `padded_length`.

        In training `positives` is the number of positive points of the batch, which moves the normalizer.
        """
        valid = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
        x = features
        for layer in self.embed:
            x = layer(x, valid)
        if self.model.positions:
            x = x + _kept(self._positions(x.shape[1]).to(x), valid)
        for block in self.stem:
            x, valid = block(x, valid)
        levels = [(x, valid)]
        for block in self.pyramid:
            x, valid = block(x, valid)
            levels.append((x, valid))
        normed = [(norm(x), valid) for norm, (x, valid) in zip(self.norms, levels, strict=True)]
        logits = torch.cat([self.classify(*each) for each in normed], 1)
        offsets = [
            F.relu(self.regress(*each) * scale) for each, scale in zip(normed, self.scales, strict=True)
        ]
        if positives is not None and self.training:
            self.normalizer.mul_(MOMENTUM).add_(positives.clamp(min=1) * (1 - MOMENTUM))
        masks = torch.cat([valid for _, valid in normed], 1)
        # A copy, since the next forward changes the buffer in place.
        return Predictions(logits, torch.cat(offsets, 1), masks, self.normalizer.clone())

    def _positions(self, length: int) -> Float[Tensor, "L D"]:
        """The sinusoid of `max_length` places, made small; stretched over sequences that are longer."""
        most, width = self.model.max_length, self.model.width
        place = torch.arange(most, dtype=torch.float64)[:, None]
        channel = torch.arange(width, dtype=torch.float64)
        angle = place / 10000 ** (2 * (channel // 2) / width)
        table: Tensor = torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float() / width**0.5
        if length > most:
            stretched = F.interpolate(table.T[None], length, mode="linear", align_corners=False)
            table = stretched[0].T
        return table[:length]


def padded_length(model: LocalizeModel, length: int) -> int:
    """How long a sequence of `length` features is padded: `max_length`, or whole windows at all levels."""
    # Ours needs no whole windows, but convolutions see the zeros after the last feature: with another padding
    # than the released one, a video that just fits would get other predictions at its end.
    multiple = 2 ** (model.levels - 1) * max(1, model.window // 2 * 2)
    return model.max_length if length <= model.max_length else -(-length // multiple) * multiple


def _kept(x: Float[Tensor, "B L n"], valid: Valid) -> Float[Tensor, "B L n"]:
    """Zero where padded."""
    return x * valid[..., None].to(x.dtype)


def _initialize(network: Localizer, generator: torch.Generator | None) -> None:
    """Set the initial values: torch's own for weights, from `generator`; zero biases but in the heads."""
    generator = generator or torch.Generator().manual_seed(0)
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv1d):
            continue
        bound = module.weight[0].numel() ** -0.5  # what kaiming-uniform with a = sqrt(5) comes to
        nn.init.uniform_(module.weight, -bound, bound, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        if name == "regress.out" and module.bias is not None:
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    with torch.no_grad():
        assert network.classify.out.bias is not None
        network.classify.out.bias.fill_(-torch.log(torch.tensor((1 - PRIOR) / PRIOR)))
