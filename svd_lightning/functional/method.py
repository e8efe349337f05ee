"""The method of the paper from top to bottom: direction, mask, steered logits, and what a strength costs.

All of it on a vocabulary of three tokens. The tuned model says p = softmax(z_φ), its base q = softmax(z_θ):

>>> tuned, base = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3]], dtype=torch.float64).log()

**Direction.** The warm start has moved the distribution from q to p. d = J·log(p/q) is what moves it on when it is
added to the logits: here towards the first token, which has gained, and away from the last.

>>> direction = kl_gradient(tuned, base)
>>> direction
tensor([ 0.1632, -0.0400, -0.1232], dtype=torch.float64)

Every direction points from the base to the tuned model: a strength μ > 0 goes further than the warm start, 0 is
the tuned model, μ < 0 goes back. (The paper's δ is −d and its μ the negative of this one: the same product.)

**Mask and steered logits.** Steering moves only the tokens that the tuned model holds plausible, p_y ≥ α · max p.
The others get the penalty λ instead; the paper's is −∞, which forbids them.

>>> mask = confidence_mask(tuned, 0.2)
>>> mask
tensor([ True,  True, False])
>>> steer(tuned, direction, mask, strength=2.0, penalty=-math.inf).softmax(-1)
tensor([0.7502, 0.2498, 0.0000], dtype=torch.float64)

**Strength.** K(μ) is the mean NLL of the right tokens under the steered distribution. Let five positions look like
this one, and let the right token be the first one in four of them:

>>> logits, d, labels = tuned.expand(5, 3), (direction * mask).expand(5, 3), torch.tensor([0, 0, 0, 0, 1])

At μ = 0 each position has a slope −b and a curvature. The paper takes b / ‖d‖² of each and averages; the exact
curvature Var_p[d] shows that this step is too short:

>>> inner, sq_norm, variance = strength_terms(logits, d, labels)
>>> (inner / sq_norm).mean(), inner.sum() / variance.sum()
(tensor(1.2975, dtype=torch.float64), tensor(4.0349, dtype=torch.float64))

K is convex in μ: a few steps of Newton's method find the minimum (`svd_lightning.strength` makes them safe).

>>> strength = 0.0
>>> for _ in range(5):
...     terms = objective_terms(steer(logits, d, None, strength=strength, penalty=0.0), [d], labels)
...     strength -= (terms.gradient.sum() / terms.hessian.sum()).item()
>>> round(strength, 4)
4.7142
>>> steer(tuned, direction, mask, strength=strength, penalty=0.0).softmax(-1)
tensor([0.7880, 0.1511, 0.0608], dtype=torch.float64)

Source: Hu et al. (2025), "Distribution-Aligned Decoding for Efficient LLM Task Adaptation", arXiv 2509.15888.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from svd_lightning.functional.distributions import at_label, expectation, log_probabilities, widened

# -- direction ---------------------------------------------------------------------------------------------


def log_ratio(tuned_logits: Tensor, base_logits: Tensor) -> Tensor:
    """Log p − log q, finite: [..., V] and [..., V] → float32 (or float64) [..., V].

    >>> log_ratio(torch.tensor([0.0, 0.0]), torch.tensor([0.0, float("-inf")]))[1].item() > 9000
    True
    """
    return log_probabilities(tuned_logits) - log_probabilities(base_logits)


def jacobian_product(log_p: Tensor, vector: Tensor, mean: Tensor | None = None) -> Tensor:
    """J·v = p ⊙ (v − E_p[v]) with the softmax Jacobian J = diag(p) − p pᵀ, in O(V); [..., V] → [..., V].

    Args:
        log_p: log-probabilities.
        vector: v.
        mean: E_p[v], [..., 1], where it is known; `log_p` and `vector` may then be some tokens of the vocabulary.

    >>> jacobian_product(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0])).tolist()
    [0.25, -0.25]
    """
    mean = expectation(log_p, vector).unsqueeze(-1) if mean is None else mean
    return log_p.exp() * (vector - mean)


def kl_direction(log_p: Tensor, log_q: Tensor, kl: Tensor) -> Tensor:
    """d = J·log(p/q) = p ⊙ (log(p/q) − KL(p‖q)), the task direction, on any tokens of the vocabulary.

    Args:
        log_p, log_q: log-probabilities of these tokens, [..., S].
        kl: KL(p‖q) of the whole distributions, [..., 1].
    """
    return jacobian_product(log_p, log_p - log_q, kl)


def kl_gradient(tuned_logits: Tensor, base_logits: Tensor) -> Tensor:
    """The same direction on the whole vocabulary, from logits: d = J·log(p/q) = ∂KL(p‖q)/∂z_φ.

    Args:
        tuned_logits: z_φ, [..., V].
        base_logits: z_θ, [..., V].

    Returns:
        float32 (float64 for float64 input), [..., V]; sums to 0; 0 where p = q.

    Source: Hu et al. (2025), eq. 6 to 9, with the sign of the module's docstring.
    """
    return jacobian_product(log_probabilities(tuned_logits), log_ratio(tuned_logits, base_logits))


# -- mask and steered logits -------------------------------------------------------------------------------


def confidence_mask(tuned_logits: Tensor, alpha: float) -> Tensor:
    """I(y) = [p_y ≥ α · max p]: the tokens that the tuned model holds plausible; [..., V] → bool [..., V].

    Raises:
        ValueError: if alpha is not in (0, 1].
    """
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"alpha: expected a number in (0, 1], got {alpha}; the paper uses 0.1")
    wide = widened(tuned_logits)
    return wide >= wide.amax(dim=-1, keepdim=True) + math.log(alpha)


def steer(
    tuned_logits: Tensor,
    direction: Tensor | Iterable[Tensor],
    mask: Tensor | None,
    *,
    strength: float | Tensor | Sequence[float | Tensor],
    penalty: float,
) -> Tensor:
    """Steered logits: ẑ = z_φ + Σ_k μ_k d_k on confident tokens, z_φ + λ on the others.

    Args:
        tuned_logits: z_φ, [..., V].
        direction: d, [..., V], finite; or several, each wanted only when its turn comes.
        mask: confident tokens, bool [..., V]; None steers every token.
        strength: μ, a number or a tensor that broadcasts against [..., V]; of several directions one each.
        penalty: λ ≤ 0 for the tokens outside the mask; −∞ gives them probability 0. It is added on its
            own, never multiplied by μ.

    Returns:
        float32 (float64 for float64 input), [..., V].

    Source: Hu et al. (2025), Algorithm 2, corrected as the README's errata say.
    """
    directions = (direction,) if isinstance(direction, Tensor) else direction
    strengths = strength if isinstance(strength, Sequence) else (strength,)
    unsteered = steered = widened(tuned_logits)
    for d, mu in zip(directions, strengths, strict=True):  # one pass over the vocabulary each
        steered = torch.addcmul(steered, d, mu) if isinstance(mu, Tensor) else torch.add(steered, d, alpha=mu)
    if mask is None:
        return steered
    if penalty == -math.inf:  # no need of a pass: nothing is left of z_φ there
        return torch.where(mask, steered, penalty)
    return torch.where(mask, steered, unsteered if penalty == 0.0 else unsteered + penalty)


# -- the objective K(μ) of calibration ---------------------------------------------------------------------


class ObjectiveTerms(NamedTuple):
    """K of each token, and its derivatives by the strengths of k directions; whoever wants a mean takes it."""

    nll: Tensor
    """K(μ) = −log softmax(ẑ)_y, [N]."""
    gradient: Tensor
    """E_{p_μ}[d] − d_y, [N, k]."""
    hessian: Tensor
    """Cov_{p_μ}[d], [N, k, k]: never negative, so K is convex in all strengths jointly."""


def objective_terms(logits: Tensor, directions: Tensor | Sequence[Tensor], labels: Tensor) -> ObjectiveTerms:
    """K, its gradient and its Hessian at steered logits, token by token, in float64.

    Args:
        logits: the steered logits ẑ = z_φ + Σ_k μ_k d_k of each token, [N, V]; −∞ is allowed.
        directions: d_k, k of [N, V], finite.
        labels: int64 [N].

    >>> objective_terms(torch.zeros(1, 2), torch.tensor([[[1.0, -1.0]]]), torch.tensor([0])).gradient.tolist()
    [[-1.0]]
    """
    logits, directions = logits.double(), [d.double() for d in directions]
    normaliser = logits.logsumexp(dim=-1)
    p = (logits - normaliser.unsqueeze(-1)).exp()
    means = [torch.linalg.vecdot(p, d) for d in directions]
    gradient = [mean - at_label(d, labels) for d, mean in zip(directions, means, strict=True)]
    hessian = []
    for d, mean in zip(directions, means, strict=True):
        weighted = p * (d - mean.unsqueeze(-1))
        hessian.append(torch.stack([torch.linalg.vecdot(weighted, other) for other in directions], dim=-1))
    return ObjectiveTerms(
        normaliser - at_label(logits, labels), torch.stack(gradient, dim=-1), torch.stack(hessian, dim=-2)
    )


class StrengthTerms(NamedTuple):
    """What one direction says about each token, every field [...]."""

    inner: Tensor
    """b = ⟨e_y − p, d⟩, minus the slope of K at μ = 0."""
    sq_norm: Tensor
    """‖d‖², the curvature under the paper's identity Hessian."""
    variance: Tensor
    """Var_p[d], the exact curvature of K at μ = 0."""


def strength_terms(tuned_logits: Tensor, direction: Tensor, labels: Tensor) -> StrengthTerms:
    """Slope and curvatures of K along one direction at μ = 0: what the paper's closed forms are made of.

    b = d_y − E_p[d];  ‖d‖² = Σ d²;  Var_p[d] = E_p[(d − E_p[d])²].

    Args:
        tuned_logits: z_φ, [..., V].
        direction: d, [..., V], 0 where the mask silences it.
        labels: int64 [...].

    Returns:
        inner, sq_norm and variance, each [...], float32 (float64 for float64 input).

    >>> strength_terms(torch.zeros(2), torch.tensor([1.0, -1.0]), torch.tensor(0))
    StrengthTerms(inner=tensor(1.), sq_norm=tensor(2.), variance=tensor(1.))

    Source: Hu et al. (2025), eq. 41 to 43; exact curvature: README, "The method".
    """
    log_p = log_probabilities(tuned_logits)
    direction = direction.to(log_p.dtype)
    mean = expectation(log_p, direction)
    variance = expectation(log_p, (direction - mean.unsqueeze(-1)).square())
    return StrengthTerms(at_label(direction, labels) - mean, direction.square().sum(dim=-1), variance)
