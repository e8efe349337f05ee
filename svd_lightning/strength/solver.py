"""Newton's method for a convex objective in a box."""

from typing import NamedTuple

import torch
from torch import Tensor

from svd_lightning.objective import Evaluation, Objective

_ARMIJO = 1e-4
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


def minimise(objective: Objective, *, bound: float, tolerance: float, max_steps: int = 200) -> Solution:
    """argmin K(μ) subject to |μ_k| ≤ bound, by damped Newton steps on the directions not held by the bound.

    K is convex (log-sum-exp of an affine function), so the minimum is global. Each step solves the k × k
    system on the free directions, is cut back to the box, and is halved until K falls enough (Armijo);
    where the model of K is poor it becomes a gradient step.
    """
    strengths = objective.start.clamp(-bound, bound)
    now = objective.evaluate(strengths)
    for _ in range(max_steps):
        held = _held(strengths, now.gradient, bound)
        if _norm(now.gradient, held) < tolerance:
            break
        moved = _descend(objective, strengths, now, held, bound)
        if moved is None:
            break
        strengths, now = moved
    held = _held(strengths, now.gradient, bound)
    norm = _norm(now.gradient, held)
    on_bound = tuple(held.nonzero().flatten().tolist())
    return Solution(strengths, now.nll, norm, on_bound, norm < tolerance, now.hessian)


def within_budget(objective: Objective, strengths: Tensor, *, budget: float) -> Tensor:
    """The furthest point on the ray from 0 through μ whose mean KL(p_μ ‖ p_0) stays within the budget.

    The divergence grows along the ray (its derivative is t · Var), so bisection finds it.
    """
    if objective.divergence(strengths) <= budget:
        return strengths
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if objective.divergence(middle * strengths) <= budget else (low, middle)
    return low * strengths


def _held(strengths: Tensor, gradient: Tensor, bound: float) -> Tensor:
    """Directions on the bound that K pushes further out, bool [k]."""
    return (strengths.abs() >= bound) & (strengths * gradient < 0)


def _norm(gradient: Tensor, held: Tensor) -> float:
    return gradient.masked_fill(held, 0.0).abs().max().item()


def _descend(
    objective: Objective, strengths: Tensor, now: Evaluation, held: Tensor, bound: float
) -> tuple[Tensor, Evaluation] | None:
    """The next point, or None when K cannot be lowered any more in float64."""
    for step in (_newton_step(now, held), -now.gradient.masked_fill(held, 0.0)):
        scale = 1.0
        while scale > 1e-12:
            candidate = (strengths + scale * step).clamp(-bound, bound)
            change = (now.gradient * (candidate - strengths)).sum().item()
            after = objective.evaluate(candidate)
            if change < 0 and after.nll <= now.nll + _ARMIJO * change:
                return candidate, after
            scale /= 2
    return None


def _newton_step(now: Evaluation, held: Tensor) -> Tensor:
    """−H⁻¹g on the free directions; the ridge keeps collinear directions solvable."""
    free = (~held).nonzero().flatten()
    hessian = now.hessian[free][:, free]
    ridge = _RIDGE + _RIDGE * hessian.diagonal().abs().max()
    step = torch.zeros_like(now.gradient)
    step[free] = -torch.linalg.solve(
        hessian + ridge * torch.eye(len(free), dtype=hessian.dtype), now.gradient[free]
    )
    return step
