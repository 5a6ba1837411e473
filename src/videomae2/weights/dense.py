"""Tensors as networks of this package hold them: no other kind, and no more than their file holds."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from videomae2.errors import UserError
from videomae2.weights.texts import quoted

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
