"""How many bytes of tensors are alive while something runs, and how many at most."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make within the context, each once, until they are freed.

    Works on real tensors and on those of a `FakeTensorMode` alike, forward and backward. Not counted: what was
    there before (`known`), and the workspace inside a kernel.

    Args:
        known: tensors that are not counted although operations may return views of them.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in known)}
        self._mine: dict[int, Any] = {}

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
        key = id(storage)
        if key in self._seen or key in self._mine:
            return
        size = storage.nbytes()
        self.now += size
        self._mine[key] = weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.now -= size
        self._mine.pop(key, None)
