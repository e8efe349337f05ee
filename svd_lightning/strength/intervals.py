"""Intervals of strengths: how well the calibration examples determine them."""

import torch
from torch import Tensor

from svd_lightning.functional import StrengthTerms
from svd_lightning.objective import TokenObjective
from svd_lightning.records import Intervals
from svd_lightning.strength.estimator import ClosedForm, Estimate, StrengthEstimator, informative

_NORMAL = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""
_SINGULAR = 1e-8
"""Smallest eigenvalue of the curvature, scaled to a diagonal of 1, with which the strengths can be told apart."""


def intervals(
    estimator: StrengthEstimator, objective: TokenObjective, found: Estimate, example: Tensor
) -> Intervals | None:
    """Return 95 % intervals of the strengths that an estimator found.

    They speak of other calibration examples like these, with this adapter and these rules: not of another warm
    start, its seed or its length, nor of other data. Of each strength by itself, not of all of them at once.

    Args:
        estimator: found the strengths.
        objective: on which it did.
        found: what it found.
        example: the example of each token of `objective.terms()`, int64 [N].

    Returns:
        None where there is none: strengths given by hand, an estimator that is neither a minimum nor one
        of the closed forms, a search with a warning (it ended on a bound, was shortened, or the labels are
        separable), strengths that the data cannot tell apart, or too few examples.
    """
    if found.curvature is not None:
        return sandwich(objective, found, found.curvature)
    return bootstrap(estimator, objective.terms(), example) if isinstance(estimator, ClosedForm) else None


def sandwich(objective: TokenObjective, found: Estimate, curvature: Tensor) -> Intervals | None:
    """Return μ ± 1.96 · se, from the covariance of an M-estimator that is robust to dependence within examples.

    E/(E − 1) · H⁻¹ (Σ_e g_e g_eᵀ) H⁻¹, with H the Hessian of what was minimised, summed over the tokens, and g_e
    the slope of example e in its gradient at the minimum: Σ_e g_e = 0. A price on the strengths (a ridge, the pool
    of a task) is part of both; the interval is then of the held-back strengths, with the price, the pool and how
    they were chosen taken as known. It holds whether or not the steered model is right, for many examples: with
    fewer than some thirty it is too short.

    Args:
        objective: K, without the price.
        found: the minimum.
        curvature: Hessian there, price included, in nats per token, [k, k].

    Returns:
        None for no more examples than strengths, or a singular Hessian.

    Source: Huber, Proc. Fifth Berkeley Symposium 1 (1967); Liang & Zeger, Biometrika 73 (1986).
    """
    strengths = torch.tensor(found.strengths, dtype=torch.float64)
    tokens, gradient = objective.example_slopes(strengths)
    examples, k = gradient.shape
    scale = curvature.diagonal().clamp_min(0.0).sqrt()
    if examples <= k or not (scale > 0.0).all():
        return None
    unit = curvature / torch.outer(scale, scale)
    if torch.linalg.eigvalsh(unit)[0] < _SINGULAR:
        return None
    # a price is paid per token, and at the minimum its slope is minus that of K
    slopes = gradient - torch.outer(tokens / tokens.sum(), gradient.sum(dim=0))
    moves = torch.linalg.solve(unit, (slopes / scale).T).T / scale / tokens.sum()
    error = _NORMAL * (examples / (examples - 1) * moves.square().sum(dim=0)).sqrt()
    return torch.stack([strengths - error, strengths + error], dim=-1).tolist()


def bootstrap(
    estimator: ClosedForm, terms: StrengthTerms, example: Tensor, *, resamples: int = 400, seed: int = 0
) -> Intervals | None:
    """Return the 2.5 % and 97.5 % quantiles of the estimator on examples drawn again, with all their tokens.

    The estimator runs on every draw, so this holds for a median too. Where single tokens carry the result
    (`Mean`), they carry the interval too, which is then wide and not exact.

    Args:
        estimator: a closed form.
        terms: of each token, [N].
        example: of each token, int64 [N].
        resamples: draws.
        seed: of the draws.

    Returns:
        None for fewer than two informative examples.

    Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    keep = informative(terms)
    order = example[keep].argsort(stable=True)
    columns = torch.stack([term[keep][order] for term in terms])
    size = example[keep].unique(return_counts=True)[1]
    if len(size) < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    first = size.cumsum(0) - size
    drawn = []
    for _ in range(resamples):
        chosen = torch.randint(len(size), (len(size),), generator=generator)
        length = size[chosen]
        # the n-th token drawn is the n-th less those of the examples drawn before
        shift = (first[chosen] - (length.cumsum(0) - length)).repeat_interleave(length)
        drawn.append(estimator.strength(StrengthTerms(*columns[:, torch.arange(len(shift)) + shift])))
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return [torch.tensor(drawn, dtype=torch.float64).quantile(quantiles).tolist()]
