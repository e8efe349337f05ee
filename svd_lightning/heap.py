"""The heap of the C library, which keeps more than is in use."""

import ctypes
import platform
from collections.abc import Callable
from functools import cache


def trim_heap() -> None:
    """Return the heap's free memory to the system, where the C library is glibc.

    Logits of a few tokens come and go between small tensors that stay. Until glibc 2.38 an aligned block does not
    find its way back into a hole of its own size, so the heap grows by such logits at every batch: at a vocabulary
    of 262,144, by 70 MB for a question with two options. (Blocks from 32 MiB on are mapped, and returned at once.)
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    return ctypes.CDLL(None).malloc_trim if platform.libc_ver()[0] == "glibc" else None
