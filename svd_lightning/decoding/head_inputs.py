"""What a model gives its head, kept during a forward."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class HeadInputs:
    """Keeps the head's inputs of the first of the calls within a forward: the tuned model's.

    Args:
        head: the module that makes logits of hidden states.
    """

    def __init__(self, head: nn.Module) -> None:
        self._head = head
        self._seen: list[Tensor] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within the context, keep what the head is given."""
        handle = self._head.register_forward_pre_hook(lambda module, args: self._seen.append(args[0]))
        try:
            yield
        finally:
            handle.remove()
            self._seen.clear()

    def take(self, logits: Tensor) -> Tensor:
        """Return the inputs of the tuned model's logits, [B, K, V] → [B, K, H]; tuned rows come first."""
        first = self._seen[0]
        self._seen.clear()
        return first[: logits.shape[0], -logits.shape[1] :]
