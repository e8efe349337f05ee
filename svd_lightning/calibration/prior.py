"""The fit of the prior: how often each token is a label, against how often the tuned model expects it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.calibration.ridge import LinearFit, free_tokens
from svd_lightning.functional import at_label
from svd_lightning.objective import LabelTokens

KAPPAS = (0.1, 0.3, 1.0)
"""κ to choose from: how many labels of every token are taken for granted."""


def prior_fit(tokens: LabelTokens, features: Tensor, fold: Tensor, *, among: Tensor) -> LinearFit:
    """Fit s_v = μ·(d_v − d_other) to the labels, d_v = log((n_v + κ) / (E_v + κ)).

    n_v counts the labels v, and E_v = Σ p_v is how many the tuned model expects; tokens that are a label less than
    twice are one outcome, the other. Where μ and κ are fitted, n and E of a token leave out its own example: with
    them the strength would rest on labels that it has seen, and the loss on others would rise.

    Args:
        tokens: the labelled tokens.
        features: 1 for each, [N, 1].
        fold: the fold of each token, int64 [N], from 0.
        among: the tokens that are fitted, bool [N].
    """
    whole = _fit(tokens.part(among))
    by_fold = [_fit(tokens.part(among & (fold != one))).weights for one in range(int(fold.max()) + 1)]
    return LinearFit(whole.weights, by_fold, {"strength": whole.strength, "kappa": whole.kappa})


@dataclass(frozen=True, eq=False)
class _Fit:
    """The prior of one set of examples."""

    weights: Tensor
    """s, float64 [k, 1]; 0 for tokens that are no outcome of their own."""
    strength: float
    kappa: float


def _fit(tokens: LabelTokens) -> _Fit:
    """Return the prior, with the κ whose best strength gives left-out examples the lowest NLL."""
    free = free_tokens(tokens)
    offsets, outcome = _outcomes(tokens, free)
    counted = torch.zeros_like(offsets).scatter_(-1, outcome.unsqueeze(-1), 1.0)
    numbers, row = tokens.example.unique(return_inverse=True)
    empty = torch.zeros(len(numbers), offsets.shape[-1], dtype=torch.float64)
    labels, expected = empty.index_add(0, row, counted), empty.index_add(0, row, offsets.exp())
    all_labels, all_expected = labels.sum(dim=0), expected.sum(dim=0)
    best = (torch.inf, 0.0, KAPPAS[0])
    for kappa in KAPPAS:
        left_out = _direction(all_labels - labels, all_expected - expected, kappa)[row]
        nll, strength = _line_search(offsets, left_out, outcome)
        best = min(best, (nll, strength, kappa))
    _, strength, kappa = best
    weights = torch.zeros(len(tokens.tokens), 1, dtype=torch.float64)
    weights[free, 0] = strength * _direction(all_labels, all_expected, kappa)[:-1]
    return _Fit(weights, strength, kappa)


def _outcomes(tokens: LabelTokens, free: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities [N, f + 1] of the free tokens and of all others together, and the label's place."""
    others = torch.ones(len(tokens.tokens) + 1, dtype=torch.bool).index_fill(0, free, False)
    offsets = tokens.offsets
    merged = torch.cat([offsets[:, free], offsets[:, others].logsumexp(dim=-1, keepdim=True)], dim=-1)
    place = torch.full((len(tokens.tokens) + 1,), len(free)).index_copy(0, free, torch.arange(len(free)))
    return merged, place[tokens.outcome]


def _direction(labels: Tensor, expected: Tensor, kappa: float) -> Tensor:
    """Return d less that of the other outcome, of counts [..., f + 1]; rounding may leave a sum below 0."""
    direction = ((labels + kappa) / (expected.clamp_min(0.0) + kappa)).log()
    return direction - direction[..., -1:]


def _line_search(offsets: Tensor, direction: Tensor, outcome: Tensor) -> tuple[float, float]:
    """Return the lowest mean NLL of the outcomes under offsets + μ·direction, and its μ; it is convex."""
    strength, observed = torch.zeros(1, dtype=torch.float64), at_label(direction, outcome).mean()
    search = torch.optim.LBFGS([strength], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> float:
        log_p = (offsets + strength * direction).log_softmax(dim=-1)
        strength.grad = ((log_p.exp() * direction).sum(dim=-1).mean() - observed).unsqueeze(0)
        return -at_label(log_p, outcome).mean().item()

    search.step(loss)
    return loss(), strength.item()
