"""How many bytes of tensors are alive, operation by operation: memory as a device's allocator would count
it.
"""

import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Inside, counts the storages that operations make, while they live; `peak` is the most at once, `now`
    what there is.

    A kernel's own scratch memory and the gaps between tensors are not seen.
    """

    measures_cpu_path = True
    """`models/cpu` steps aside for every other mode: what runs inside would not be what is measured."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())

    def add_module(self, module: nn.Module) -> None:
        """Count parameters and buffers, which were there before."""
        for tensor in (*module.parameters(), *module.buffers()):
            self.add(tensor.detach())

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out
