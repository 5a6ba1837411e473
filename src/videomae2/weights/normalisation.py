"""Raw tensors made ours: dense, of kinds we know, and for pixels with our mean and standard deviation.

No tensor has more values than its file holds. Ours standardises clips by ImageNet's mean and standard
deviation inside the network. Standardisation and the cube embedding are both linear, so another one folds
into the embedding's weight and bias, exactly up to rounding.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from videomae2.architecture import IMAGENET_MEAN, IMAGENET_STD
from videomae2.bounds import shown
from videomae2.errors import UserError
from videomae2.weights.fetch import quoted

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

SLACK = 16 * 2**20
"""Bytes that tensors may have beyond their file, whatever its size."""


def check_extent(tensors: Mapping[str, Tensor], file_bytes: int, source: object) -> None:
    """Refuse tensors that are many times larger than the file they came from.

    A tensor may be written as one value and strides of 0, and a thousand bytes then become any number of
    gigabytes when it is copied.
    """
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    # Tied weights stand in a file once and are counted each time.
    if total > 4 * file_bytes + SLACK:
        raise UserError(
            f"{quoted(source)} has {file_bytes:,} bytes, but its tensors would take {total:,}; expected a "
            "file that holds every value; fetch it from a source you trust"
        )


def check_dense(tensors: Mapping[str, Tensor], source: object) -> None:
    """Refuse, by name, tensors that are not dense floating-point values: UserError says what they are."""
    for name, tensor in tensors.items():
        kind = _other_kind(tensor)
        if kind:
            raise UserError(
                f"expected dense floating-point tensors in {quoted(source)}, got {kind} {quoted(name)}; save "
                "the network's plain state dict"
            )


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    return [name for name, tensor in tensors.items() if tensor.numel() and not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    # Both ends are NaN as soon as one value is; one pass, and nothing is allocated.
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _other_kind(tensor: Tensor) -> str:
    if tensor.device.type != "cpu":
        return f"the {tensor.device.type} tensor"
    if tensor.is_nested:
        return "the nested tensor"
    if tensor.layout != torch.strided:
        return "the sparse tensor"
    if tensor.is_quantized:
        return "the quantised tensor"
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"the {type(tensor).__name__}"
    if tensor.dtype not in _FLOATS:
        return f"the {str(tensor.dtype).removeprefix('torch.')} tensor"
    if not tensor.numel():
        return "the empty tensor"
    return ""


_WEIGHT, _BIAS = "encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"
_BUFFERS = ("data_preprocessor.mean", "data_preprocessor.std")

Standard = tuple[list[float], list[float]]
"""Mean and standard deviation of each channel, of pixels in [0, 1]."""


def take_standard(
    state: Mapping[str, Tensor], preprocessor: Mapping[str, Any], source: object
) -> tuple[Standard | None, dict[str, Tensor]]:
    """How a foreign checkpoint standardises pixels, if it says so, and its state without MMAction2's buffers.

    `preprocessor` is the preprocessor_config.json of `transformers`. UserError for what is no mean or no
    standard deviation.
    """
    rest = {name: tensor for name, tensor in state.items() if name not in _BUFFERS}
    if all(name in state for name in _BUFFERS):
        given = [state[name].float().flatten().tolist() for name in _BUFFERS]
        # MMAction2 keeps them for pixels in 0 .. 255.
        scale = 255.0 if max(given[1], default=0.0) > 1 else 1.0
        return _standard(given[0], given[1], scale, source), rest
    if "image_mean" not in preprocessor and "image_std" not in preprocessor:
        return None, rest
    if preprocessor.get("do_normalize") is False:
        return None, rest
    factor = preprocessor.get("rescale_factor", 1 / 255)
    if not _is_positive(factor):
        raise UserError(
            f"expected a rescale_factor above 0 beside {source}, got {shown(factor)}; mend its "
            "preprocessor_config.json"
        )
    return _standard(
        preprocessor.get("image_mean"), preprocessor.get("image_std"), 255 * factor, source
    ), rest


def fold_standard(state: Mapping[str, Tensor], standard: Standard | None) -> tuple[dict[str, Tensor], str]:
    """The same network for clips standardised as ours are, and a note where that changed it."""
    if standard is None or _BIAS not in state or state[_WEIGHT].shape[1] != len(IMAGENET_MEAN):
        return dict(state), ""
    ours = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], dtype=torch.float64)
    theirs = torch.tensor(standard, dtype=torch.float64)
    if torch.allclose(ours, theirs, rtol=0, atol=2e-3):  # rounded to three digits, or to whole 0 .. 255
        return dict(state), ""
    weight, bias = state[_WEIGHT], state[_BIAS]
    wide = weight.double()
    scale = (ours[1] / theirs[1]).view(1, -1, 1, 1, 1)
    shift = ((ours[0] - theirs[0]) / theirs[1]).view(1, -1, 1, 1, 1)
    folded = {
        _WEIGHT: (wide * scale).to(weight.dtype),
        _BIAS: (bias.double() + (wide * shift).sum((1, 2, 3, 4))).to(bias.dtype),
    }
    numbers = " and ".join(", ".join(f"{value:.3g}" for value in each) for each in standard)
    note = f"trained on pixels of mean and standard deviation {numbers}: folded into the cube embedding"
    return dict(state) | folded, note


def _standard(mean: Any, std: Any, scale: float, source: object) -> Standard:
    channels = len(IMAGENET_MEAN)
    for what, values in (("mean", mean), ("standard deviation", std)):
        there = isinstance(values, list) and len(values) == channels
        if not there or not all(_is_positive(v) or (v == 0 and what == "mean") for v in values):
            raise UserError(
                f"expected a {what} for each of {channels} channels beside {source}, got {shown(values)}; "
                "mend its preprocessor"
            )
    return [value / scale for value in mean], [value / scale for value in std]


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e6 and math.isfinite(value)
