"""The fit of the prior: how often each token is a label, against how often the tuned model expects it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.calibration.losses import Loss
from svd_lightning.calibration.ridge import LinearFit, free_tokens

KAPPAS = (0.1, 0.3, 1.0)
"""κ to choose from: how many labels of every token are taken for granted."""


def prior_fit(loss: Loss, features: Tensor, fold: Tensor, *, among: Tensor) -> LinearFit:
    """Fit s_v = μ·(d_v − d_other) to a loss of the labels, d_v = log((n_v + κ) / (E_v + κ)).

    n_v counts the right labels v, and E_v = Σ p_v is how many the tuned model expects there; tokens that are a
    label less than twice are one outcome, the other. Where μ and κ are fitted, n and E of a token leave out its
    own example: with them the strength would rest on labels that it has seen, and the loss on others would rise.

    Args:
        loss: of the labelled tokens.
        features: 1 for each, [N, 1].
        fold: the fold of each token, int64 [N], from 0.
        among: the tokens that are fitted, bool [N].
    """
    whole = _fit(loss.part(among))
    by_fold = [_fit(loss.part(among & (fold != one))).weights for one in range(int(fold.max()) + 1)]
    return LinearFit(whole.weights, by_fold, {"strength": whole.strength, "kappa": whole.kappa})


@dataclass(frozen=True, eq=False)
class _Fit:
    """The prior of one set of examples."""

    weights: Tensor
    """s, float64 [k, 1]; 0 for tokens that are no outcome of their own."""
    strength: float
    kappa: float


def _fit(loss: Loss) -> _Fit:
    """Return the prior, with the κ whose best strength gives left-out examples the lowest loss."""
    tokens, k = loss.tokens, len(loss.tokens.tokens)
    own = free_tokens(tokens.part(loss.right))
    other = torch.ones(k + 1, dtype=torch.bool).index_fill(0, own, False)
    numbers, row = loss.unit.unique(return_inverse=True)
    mine, empty = row[loss.right], torch.zeros(len(numbers), k + 1, dtype=torch.float64)
    p = tokens.offsets[loss.right].exp()
    counted = torch.zeros_like(p).scatter_(-1, tokens.outcome[loss.right].unsqueeze(-1), 1.0)
    labels, expected = empty.index_add(0, mine, counted), empty.index_add(0, mine, p)
    best = (torch.inf, 0.0, KAPPAS[0])
    for kappa in KAPPAS:
        left_out = _direction(labels.sum(dim=0) - labels, expected.sum(dim=0) - expected, other, kappa)
        best = min(best, (*_line_search(loss, left_out[row].float()), kappa))
    _, strength, kappa = best
    found = strength * _direction(labels.sum(dim=0), expected.sum(dim=0), other, kappa)
    return _Fit(found[:-1].unsqueeze(-1), strength, kappa)


def _direction(labels: Tensor, expected: Tensor, other: Tensor, kappa: float) -> Tensor:
    """Return d_v − d_other of counts [..., k + 1], and 0 for the tokens of the other outcome (bool [k + 1])."""
    log_odds = ((labels + kappa) / (expected.clamp_min(0.0) + kappa)).log()  # rounding may leave sums below 0
    seen, awaited = (each[..., other].sum(dim=-1, keepdim=True) for each in (labels, expected))
    return (log_odds - ((seen + kappa) / (awaited.clamp_min(0.0) + kappa)).log()).masked_fill(other, 0.0)


def _line_search(loss: Loss, direction: Tensor) -> tuple[float, float]:
    """Return the lowest loss at shifts μ·direction, [N, k + 1], and its μ."""
    strength = torch.zeros(1)
    search = torch.optim.LBFGS([strength], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> float:
        found, gradient = loss(strength * direction)
        strength.grad = (gradient * direction).sum().unsqueeze(0)
        return found

    search.step(closure)
    return closure(), strength.item()
