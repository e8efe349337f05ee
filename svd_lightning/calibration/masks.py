"""Which mask and which penalty: the same table at larger α, with λ fitted as one more coefficient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from svd_lightning.calibration.cross_fit import cross_fit, fit_each, label_log_probs
from svd_lightning.metrics import Gain, paired_gain
from svd_lightning.objective import MaskedObjective, TokenTable
from svd_lightning.records import MaskRecord, RecommendedRecord
from svd_lightning.steering import ConfidentSet, SteeringRule
from svd_lightning.strength import LineSearch

PAPER_ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""The α of the paper's ablation."""

_EFFECTIVELY_INFINITE = 20.0
"""A penalty of −20 leaves the tokens outside the mask a share of 2e-9 at most: as good as −∞."""
_FULL_COVERAGE = 0.99


@dataclass(frozen=True)
class MaskChoice:
    """One α with the penalty that suits it."""

    alpha: float
    coverage: float
    mask_size: float
    penalty: float
    """λ, fitted together with the strengths on all tokens."""
    strengths: tuple[float, ...]
    gain: Gain
    """Held-out gain over the tuned model, in nats per token, all tokens."""

    def plain(self) -> MaskRecord:
        """Return it as JSON has it."""
        return {
            "alpha": self.alpha,
            "coverage": self.coverage,
            "mask_size": self.mask_size,
            "penalty": self.penalty,
            "strengths": list(self.strengths),
            "gain": self.gain.plain(),
        }


def compare_masks(
    table: TokenTable, rules: Sequence[SteeringRule], alphas: Sequence[float], *, folds: int
) -> list[MaskChoice]:
    """Fit strengths and λ together at each α; nothing is forbidden, so all α are scored on the same tokens.

    Args:
        table: built at the smallest of the α, with the rules and `ConfidentSet`.
        rules: the directions.
        alphas: the masks to try.
        folds: of the cross-fit behind the gain.
    """
    together = (*rules, ConfidentSet())
    # without a penalty: not the tuned model as decoded, which the calibration compares with
    tuned = label_log_probs(table, rules, torch.zeros(len(rules), dtype=torch.float64), penalty=0.0)
    choices = []
    for alpha in sorted(alphas):
        narrowed = table.narrow(alpha)
        [fit] = fit_each([(LineSearch(), MaskedObjective(narrowed, together, penalty=0.0))])
        [held_out] = cross_fit(narrowed, [fit], penalty=0.0, folds=folds)
        *strengths, lift = fit.estimate.strengths
        choices.append(
            MaskChoice(
                alpha=alpha,
                coverage=narrowed.coverage,
                mask_size=narrowed.mask_size,
                penalty=-lift,
                strengths=tuple(strengths),
                gain=paired_gain(held_out, tuned, table.example),
            )
        )
    return choices


def recommend(choices: Sequence[MaskChoice]) -> RecommendedRecord | None:
    """Return α and λ with the largest held-out gain, with the reason; None if there are no choices."""
    if not choices:
        return None
    best = max(choices, key=lambda choice: choice.gain.mean)
    forbids = best.penalty <= -_EFFECTIVELY_INFINITE and best.coverage >= _FULL_COVERAGE
    penalty = -math.inf if forbids else min(0.0, best.penalty)
    reason = (
        f"at alpha {best.alpha:g} the mask holds {best.coverage:.1%} of the labels, and the fitted penalty is "
        f"{best.penalty:.3g}"
    )
    if not forbids and best.coverage < _FULL_COVERAGE:
        reason += f": a penalty of -inf would forbid the other {1 - best.coverage:.1%}"
    return {"alpha": best.alpha, "penalty": penalty, "reason": reason, "gain": best.gain.plain()}
