"""What a strength estimator is and what it returns."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from svd_lightning.calibration import Objective
from svd_lightning.functional import StrengthTerms

MIN_SQ_NORM = 1e-12
"""ε: a token with ‖d‖² below it carries no information; it is skipped and counted."""


@dataclass(frozen=True)
class Estimate:
    """The strengths that an estimator found."""

    strengths: tuple[float, ...]
    """μ_k, one per rule."""
    skipped: int = 0
    """Tokens that carried no information."""
    warning: str | None = None
    """Why the result should be doubted, or None."""


@runtime_checkable
class StrengthEstimator(Protocol):
    """A pure function from the calibration objective to the strengths."""

    def __call__(self, objective: Objective) -> Estimate:
        """Find the strengths, one per direction of the objective."""
        ...


def estimator_name(estimator: StrengthEstimator) -> str:
    """The name under which reports and checkpoints know an estimator: its class name."""
    return type(estimator).__name__


def informative(terms: StrengthTerms) -> Tensor:
    """Tokens with ‖d‖² ≥ ε, bool [N]."""
    return terms.sq_norm >= MIN_SQ_NORM


def token_strengths(terms: StrengthTerms) -> Tensor:
    """μ* = b / (‖d‖² + ε) of the informative tokens: the Gauss–Newton step with identity Hessian.

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 41 and 43.
    """
    keep = informative(terms)
    return terms.inner[keep] / (terms.sq_norm[keep] + MIN_SQ_NORM)


def closed_form(terms: StrengthTerms, strength: float) -> Estimate:
    """Wrap the value of a closed-form estimator, with the count of skipped tokens."""
    return Estimate((strength,), skipped=int((~informative(terms)).sum()))


def nothing_to_learn(terms: StrengthTerms) -> Estimate:
    """μ = 0, said aloud: tuned and base agree on every calibration token."""
    return Estimate(
        (0.0,),
        skipped=terms.sq_norm.numel(),
        warning="tuned and base model agree on every calibration token: strength 0; train the adapter first",
    )
