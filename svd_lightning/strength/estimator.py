"""What a strength estimator is and what it returns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from svd_lightning.functional import StrengthTerms
from svd_lightning.objective import Objective

MIN_SQ_NORM = 1e-12
"""ε: a token with a smaller ‖d‖² carries no information; it is skipped and counted."""

_NOTHING_TO_LEARN = "tuned and base model agree on every calibration token: strength 0; train the adapter first"


@dataclass(frozen=True)
class Estimate:
    """The strengths that an estimator found."""

    strengths: tuple[float, ...]
    """μ_k, one per rule."""
    skipped: int = 0
    """Tokens that carried no information."""
    warning: str | None = None
    """Why to doubt the result, or None."""
    curvature: Tensor | None = field(default=None, compare=False, repr=False)
    """Hessian of what the strengths minimise, in nats per token, [k, k]; None where they are no inner minimum."""


@runtime_checkable
class StrengthEstimator(Protocol):
    """A pure function from the calibration objective to the strengths."""

    def __call__(self, objective: Objective) -> Estimate:
        """Find the strengths, one per direction of the objective."""
        ...


def estimator_name(estimator: StrengthEstimator) -> str:
    """Return the name of an estimator in reports and checkpoints: its class name."""
    return type(estimator).__name__


def informative(terms: StrengthTerms) -> Tensor:
    """Return the tokens with ‖d‖² ≥ ε, bool [N]."""
    return terms.sq_norm >= MIN_SQ_NORM


def token_strengths(terms: StrengthTerms) -> Tensor:
    """Return μ* = b / (‖d‖² + ε) of the informative tokens: the Gauss–Newton step with identity Hessian.

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 41 and 43.
    """
    keep = informative(terms)
    return terms.inner[keep] / (terms.sq_norm[keep] + MIN_SQ_NORM)


class ClosedForm(ABC):
    """An estimator for a single rule that needs the terms of its informative tokens alone."""

    def __call__(self, objective: Objective) -> Estimate:
        """Return the strength over the informative tokens; 0 with a warning where there is none."""
        terms = objective.terms()
        keep = informative(terms)
        skipped = int((~keep).sum())
        if not keep.any():
            return Estimate((0.0,), skipped=skipped, warning=_NOTHING_TO_LEARN)
        return Estimate((self.strength(StrengthTerms(*(term[keep] for term in terms))),), skipped=skipped)

    @abstractmethod
    def strength(self, terms: StrengthTerms) -> float:
        """Return μ from the terms of informative tokens, at least one."""
