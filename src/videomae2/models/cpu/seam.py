"""When the fast path of a CPU may run: looked up at every call, because hooks and modes come and go.

It runs only where nobody could tell it from the plain layers but by a clock: ordinary tensors on a CPU, and
modules that are neither watched nor replaced.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def is_ordinary(x: Tensor) -> bool:
    """Whether x is a tensor of numbers on a CPU, and torch's own kernels run on it here and now."""
    return (
        # First, because a compiler that reads on would meet calls that it does not know.
        not torch.compiler.is_compiling()
        and type(x) is Tensor  # not fake, distributed, quantised, traced
        and x.device.type == "cpu"
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch_module._has_any_global_hook()
        and _nobody_dispatches()
    )


def is_untouched(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is exactly of one of these kinds, unwatched, and its parameters are ordinary tensors.

    Parametrised modules and those of adapters and quantisation have classes of their own; pruning leaves a
    hook.
    """
    return (
        type(module) in kinds
        and not module._forward_pre_hooks
        and not module._forward_hooks
        and not module._backward_pre_hooks
        and not module._backward_hooks
        and module._compiled_call_impl is None
        and "forward" not in module.__dict__  # set on the object, as offloading libraries do
        and has_ordinary_parameters(module)
    )


def has_ordinary_parameters(module: nn.Module) -> bool:
    """Whether a module's own parameters are tensors of numbers: not sharded, not quantised."""
    return all(type(each) in _ORDINARY for each in module._parameters.values())


# `torch.func.functional_call` puts plain tensors in the place of parameters; None is an absent bias.
_ORDINARY = (nn.Parameter, Tensor, type(None))


def _nobody_dispatches() -> bool:
    """Whether no dispatch mode is active, but those that say that they measure this very path."""
    if torch._C._len_torch_dispatch_stack() == 0:
        return True
    return all(getattr(mode, "measures_cpu_path", False) for mode in _get_current_dispatch_mode_stack())
