"""Intervals of strengths: how well the calibration examples determine them."""

import torch
from torch import Tensor

from svd_lightning.functional import StrengthTerms
from svd_lightning.objective import TokenObjective
from svd_lightning.records import Intervals
from svd_lightning.strength.estimator import ClosedForm, Estimate, StrengthEstimator, informative

_NORMAL = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""
_RESAMPLES = 400
_SINGULAR = 1e-8
"""Smallest eigenvalue of the curvature, scaled to a diagonal of 1, at which the data tell the strengths apart."""


def intervals(
    estimator: StrengthEstimator, objective: TokenObjective, found: Estimate, example: Tensor
) -> Intervals | None:
    """Return 95 % intervals of the strengths that an estimator found.

    They say how the strengths would vary over other calibration examples like these, with the same adapter and
    rules: not with another warm start, seed or length, nor on other data. Each interval covers one strength.

    Args:
        estimator: what found the strengths.
        objective: where it found them.
        found: the result.
        example: the example of each token of `objective.terms()`, int64 [N].

    Returns:
        None where there is no interval: for strengths given by hand, an estimator that is neither a minimum nor a
        closed form, a search with a warning (it ended on a bound, was shortened, or the labels are separable),
        strengths that the data cannot tell apart, or too few examples.
    """
    if found.curvature is not None:
        return sandwich(objective, found, found.curvature)
    return bootstrap(estimator, objective.terms(), example) if isinstance(estimator, ClosedForm) else None


def sandwich(objective: TokenObjective, found: Estimate, curvature: Tensor) -> Intervals | None:
    """Return μ ± 1.96 · se, from the covariance of an M-estimator that is robust to dependence within examples.

    E/(E − 1) · H⁻¹ (Σ_e g_e g_eᵀ) H⁻¹, with H the Hessian of what was minimised, summed over the tokens, and g_e
    the slope of example e in its gradient at the minimum: Σ_e g_e = 0. A price on the strengths (a ridge, the pool
    of a task) is part of both; the interval is then that of the priced strengths, and takes the price, the pool
    and their choice as known. It holds whether or not the steered model is right, for many examples: with fewer
    than about thirty it is too short.

    Args:
        objective: K, without the price.
        found: the minimum.
        curvature: Hessian there, price included, in nats per token, [k, k].

    Returns:
        None for no more examples than strengths, or a singular Hessian.

    Source: Huber, Proc. Fifth Berkeley Symposium 1 (1967); Liang & Zeger, Biometrika 73 (1986).
    """
    strengths = torch.tensor(found.strengths, dtype=torch.float64)
    tokens, _, gradient, _ = objective.example_sums(strengths)
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


def bootstrap(estimator: ClosedForm, terms: StrengthTerms, example: Tensor) -> Intervals | None:
    """Return the 2.5 % and 97.5 % quantiles of the estimator on resampled examples, each with all its tokens.

    The estimator runs on every draw, so this holds for a median too. Where single tokens carry the result
    (`Mean`), they carry the interval too, which is then wide and not exact.

    Args:
        estimator: a closed form.
        terms: slope and curvatures of each token, [N].
        example: the example of each token, int64 [N].

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
    generator = torch.Generator().manual_seed(0)
    first = size.cumsum(0) - size
    drawn = []
    for _ in range(_RESAMPLES):
        chosen = torch.randint(len(size), (len(size),), generator=generator)
        length = size[chosen]
        # a token's row, less its number among those drawn
        shift = (first[chosen] - (length.cumsum(0) - length)).repeat_interleave(length)
        drawn.append(estimator.strength(StrengthTerms(*columns[:, torch.arange(len(shift)) + shift])))
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return [torch.tensor(drawn, dtype=torch.float64).quantile(quantiles).tolist()]
