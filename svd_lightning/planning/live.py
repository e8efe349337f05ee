"""Count the bytes of tensors that are alive while something runs, and their peak."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make within the context, each once, until they are freed.

    Works on real tensors and on those of a `FakeTensorMode`, forward and backward. Not counted: `known` tensors,
    and the workspace inside a kernel.

    Args:
        known: tensors that existed before; operations may return views of them.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in known)}
        self._made: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        self.peak = max(self.peak, self.now)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._known and key not in self._made:
            self.now += size
            self._made[key] = weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.now -= size
        self._made.pop(key, None)
