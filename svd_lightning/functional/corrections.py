"""Corrections of a few tokens' logits."""

from torch import Tensor

from svd_lightning.functional.distributions import widened


def correct(logits: Tensor, tokens: Tensor, shift: Tensor) -> Tensor:
    """Corrected logits: ẑ_v = z_v + s_v for the tokens v of a correction, z_v elsewhere.

    Args:
        logits: z, [..., V].
        tokens: the k corrected tokens, int64 [k], each once.
        shift: s, [..., k] or [k].

    Returns:
        float32 (float64 for float64 input), [..., V].

    >>> import torch
    >>> correct(torch.zeros(2, 3), torch.tensor([2]), torch.tensor([[1.0], [2.0]])).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]]
    """
    wide = widened(logits)
    return wide.index_add(-1, tokens, shift.to(wide.dtype).expand(*wide.shape[:-1], len(tokens)))
