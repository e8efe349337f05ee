"""What steering did at each position, in numbers from both models' logits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from svd_lightning.functional import expectation, kl_divergence, log_probabilities, steer

T = TypeVar("T")


class Triple(NamedTuple, Generic[T]):
    """The same quantity under the three distributions."""

    base: T
    tuned: T
    steered: T


@dataclass(frozen=True)
class RankedToken:
    """A token that might have come next."""

    token: int
    """Its id."""
    probability: Triple[float]
    """Exactly 0 where a distribution forbids it."""
    confident: bool
    """Whether it is inside the mask."""


@dataclass(frozen=True)
class Position:
    """One position of a completion: the token there, and those that might have been."""

    chosen: RankedToken
    """The completion's token."""
    rank: Triple[int]
    """How many tokens are likelier than it, plus 1."""
    shift: float
    """How far steering moved the distribution: KL(steered ‖ tuned) in nats."""
    mask_shift: float
    """The same with all strengths 0: what the mask and its penalty do alone."""
    divergence: float
    """KL(tuned ‖ base) in nats."""
    entropy: Triple[float]
    """In nats."""
    first: Triple[int]
    """The likeliest token of each distribution."""
    flipped: bool
    """Whether steering changed the likeliest token; a tie with the tuned model's first is no change."""
    mask_size: int
    """Tokens inside the mask."""
    ranked: tuple[RankedToken, ...]
    """The likeliest tokens of each distribution, likeliest under steering first."""


def positions(
    logits: Triple[Tensor], labels: Tensor, mask: Tensor | None, *, penalty: float = 0.0, top: int = 5
) -> Iterator[Position]:
    """Yield the positions of a completion, in order.

    Args:
        logits: of both models and after steering, [n, V] each; −∞ is allowed.
        labels: the completion's tokens, int64 [n].
        mask: confident tokens, bool [n, V]; None where all are steered.
        penalty: λ, which the steered logits outside the mask contain.
        top: how many of each distribution's likeliest tokens are ranked.
    """
    log_p = Triple(*map(log_probabilities, logits))
    inside = torch.ones_like(log_p.tuned, dtype=torch.bool) if mask is None else mask
    likeliest = [part.topk(min(top, part.shape[-1])).indices for part in log_p]
    ids = torch.cat([labels.unsqueeze(-1), *likeliest], dim=-1)
    probability = torch.stack([part.gather(-1, ids).exp() for part in log_p], dim=-1).tolist()
    confident = inside.gather(-1, ids).tolist()
    rank = torch.stack([_rank(part, labels) for part in log_p], dim=-1).tolist()
    entropy = torch.stack([_entropy(part) for part in log_p], dim=-1).tolist()
    first = torch.stack([part[:, 0] for part in likeliest], dim=-1)
    flipped = (_rank(log_p.tuned, first[:, 2]) > 1).tolist()
    silent = steer(logits.tuned, (), mask, strength=(), penalty=penalty)
    shift, mask_shift = (_divergences(one, logits.tuned) for one in (logits.steered, silent))
    divergence = _divergences(logits.tuned, logits.base)
    sizes = inside.sum(dim=-1).tolist()
    for n, row in enumerate(ids.tolist()):
        tokens = {
            token: RankedToken(token, Triple(*values), inside_mask)
            for token, values, inside_mask in zip(row, probability[n], confident[n], strict=True)
        }
        yield Position(
            chosen=tokens[row[0]],
            rank=Triple(*rank[n]),
            shift=shift[n],
            mask_shift=mask_shift[n],
            divergence=divergence[n],
            entropy=Triple(*entropy[n]),
            first=Triple(*first[n].tolist()),
            flipped=flipped[n],
            mask_size=sizes[n],
            ranked=tuple(sorted(tokens.values(), key=lambda one: one.probability[::-1], reverse=True)),
        )


def _rank(log_p: Tensor, tokens: Tensor) -> Tensor:
    """Count the tokens that are strictly likelier, plus 1: [n, V], [n] → int64 [n]."""
    return (log_p > log_p.gather(-1, tokens.unsqueeze(-1))).sum(dim=-1) + 1


def _entropy(log_p: Tensor) -> Tensor:
    """Return −E_p[log p] of every row; 0 rather than −0 where one token has all the probability."""
    return (-expectation(log_p, log_p)).clamp_min(0.0) + 0.0


def _divergences(of: Tensor, against: Tensor) -> list[float]:
    """Return the KL of every row of logits, with negative rounding errors cut off."""
    return kl_divergence(of, against).clamp_min(0.0).tolist()
