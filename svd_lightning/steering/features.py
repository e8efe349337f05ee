"""What is known of a position at decode time, as numbers on which the strength may depend."""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from svd_lightning.functional import expectation


@runtime_checkable
class Feature(Protocol):
    """One number per position from both models' distributions, of the order of 1 whatever the data.

    The position within the completion is no feature: steering sees distributions, not where they stand (a
    prompt's last token and a later one look alike in a batch, and beams, prefixes and assisted decoding move
    it). A new feature is one new class with this method.
    """

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The feature of each position, finite: [..., V], [..., V] → [...]."""
        ...


class Entropy:
    """f = H(p) / log V: 0 where the tuned model is certain, 1 where it knows nothing."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """−E_p[log p] as a share of its maximum."""
        return (-expectation(log_p, log_p) / math.log(max(log_p.shape[-1], 2))).clamp_min(0.0)


class Divergence:
    """f = KL / (1 + KL) with KL(p‖q) in nats: 0 where tuned and base agree, near 1 where they part."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence, squeezed into [0, 1)."""
        kl = expectation(log_p, log_p - log_q).clamp_min(0.0)
        return kl / (1.0 + kl)


class Agreement:
    """f = 1 where the token that the tuned model ranks first is also first in the base, else 0."""

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Whether some token is first in both: ties count, the order of the vocabulary does not."""
        first_p = log_p == log_p.amax(dim=-1, keepdim=True)
        first_q = log_q == log_q.amax(dim=-1, keepdim=True)
        return torch.any(first_p & first_q, dim=-1).to(log_p.dtype)


def feature_name(feature: Feature) -> str:
    """The name under which tables and checkpoints know a feature: its class name.

    >>> feature_name(Entropy())
    'Entropy'
    """
    return type(feature).__name__
