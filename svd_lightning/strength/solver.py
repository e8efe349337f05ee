"""Newton's method in a box, for many objectives in step."""

from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from svd_lightning.objective import Evaluation, Objective, prefetch

_ARMIJO = 1e-4
_MAX_STEPS = 200
_RIDGE = 1e-12


class Solution(NamedTuple):
    """Where the solver stopped."""

    strengths: Tensor
    """μ, float64 [k]."""
    nll: float
    """K(μ)."""
    gradient_norm: float
    """Largest absolute entry of dK/dμ over the directions that are not held by the bound."""
    on_bound: tuple[int, ...]
    """Directions whose strength ended on the bound with K still falling outwards."""
    converged: bool
    """Whether the gradient norm fell below the tolerance."""
    hessian: Tensor
    """d²K/dμ_k dμ_l there, [k, k]."""


def minimise_all(objectives: Sequence[Objective], *, bound: float, tolerance: float) -> list[Solution]:
    """Return argmin K(μ) subject to |μ_k| ≤ bound for each objective, by damped Newton steps.

    The likelihood is convex (log-sum-exp of an affine function), and its minimum global; where K is not convex,
    the result is a minimum no higher than K at the start. Each step solves the k × k system on the directions not
    held by the bound, is cut back to the box, and is halved until K falls enough (Armijo); where the model of K is
    poor it becomes a gradient step.

    The searches run in step: each round evaluates every objective at the point that its search asks for, so that
    a stream answers all of them in one pass.
    """
    searches = [_search(one.start, bound=bound, tolerance=tolerance) for one in objectives]
    points = {n: next(search) for n, search in enumerate(searches)}
    solutions: dict[int, Solution] = {}
    while points:
        prefetch([objectives[n] for n in points], list(points.values()))
        asked, points = points, {}
        for n, point in asked.items():
            try:
                points[n] = searches[n].send(objectives[n].evaluate(point))
            except StopIteration as end:
                solutions[n] = end.value
    return [solutions[n] for n in range(len(searches))]


def within_budget(objectives: Sequence[Objective], points: Sequence[Tensor], *, budget: float) -> list[Tensor]:
    """Return for each the furthest point on the ray from 0 through μ with mean KL(p_μ ‖ p_0) within the budget.

    The divergence grows along the ray (its derivative is t · Var), so bisection finds it.
    """
    prefetch(objectives, points)
    low = {n: 0.0 for n, point in enumerate(points) if objectives[n].divergence(point) > budget}
    high = dict.fromkeys(low, 1.0)
    for _ in range(50 if low else 0):
        middle = {n: (low[n] + high[n]) / 2 for n in low}
        prefetch([objectives[n] for n in low], [middle[n] * points[n] for n in low])
        for n in low:
            inside = objectives[n].divergence(middle[n] * points[n]) <= budget
            (low if inside else high)[n] = middle[n]
    return [low[n] * point if n in low else point for n, point in enumerate(points)]


def _search(start: Tensor, *, bound: float, tolerance: float) -> Generator[Tensor, Evaluation, Solution]:
    """Yield each point at which to evaluate K, and return the minimum."""
    strengths = start.clamp(-bound, bound)
    now = yield strengths
    for _ in range(_MAX_STEPS):
        held = _held(strengths, now.gradient, bound)
        if _norm(now.gradient, held) < tolerance:
            break
        moved = yield from _descend(strengths, now, held, bound)
        if moved is None:
            break
        strengths, now = moved
    held = _held(strengths, now.gradient, bound)
    norm = _norm(now.gradient, held)
    on_bound = tuple(held.nonzero().flatten().tolist())
    return Solution(strengths, now.nll, norm, on_bound, norm < tolerance, now.hessian)


def _held(strengths: Tensor, gradient: Tensor, bound: float) -> Tensor:
    """Return the directions on the bound that K pushes further out, bool [k]."""
    return (strengths.abs() >= bound) & (strengths * gradient < 0)


def _norm(gradient: Tensor, held: Tensor) -> float:
    return gradient.masked_fill(held, 0.0).abs().max().item()


def _descend(
    strengths: Tensor, now: Evaluation, held: Tensor, bound: float
) -> Generator[Tensor, Evaluation, tuple[Tensor, Evaluation] | None]:
    """Return the next point, or None when K cannot be lowered any more in float64."""
    for step in (_newton_step(now, held), -now.gradient.masked_fill(held, 0.0)):
        scale = 1.0
        while scale > 1e-12:
            candidate = (strengths + scale * step).clamp(-bound, bound)
            change = (now.gradient * (candidate - strengths)).sum().item()
            after = yield candidate
            if change < 0 and after.nll <= now.nll + _ARMIJO * change:
                return candidate, after
            scale /= 2
    return None


def _newton_step(now: Evaluation, held: Tensor) -> Tensor:
    """Return −|H|⁻¹g on the free directions, which leads downhill; the ridge keeps collinear directions solvable.

    |H| has the eigenvalues' absolute values: where K is convex it is H, elsewhere it leads away from a saddle.
    """
    free = (~held).nonzero().flatten()
    hessian = now.hessian[free][:, free]
    ridge = _RIDGE + _RIDGE * hessian.diagonal().abs().max()
    step = torch.zeros_like(now.gradient)
    values, vectors = torch.linalg.eigh(hessian)
    step[free] = -vectors @ (vectors.T @ now.gradient[free] / (values.abs() + ridge))
    return step
