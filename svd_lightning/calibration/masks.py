"""Which mask and which penalty: the same table at larger α, with λ fitted as one more coefficient."""

import math
from collections.abc import Sequence

from svd_lightning.calibration.cross_fit import cross_fit, fit_each
from svd_lightning.calibration.split import CalibrationSplit
from svd_lightning.metrics import paired_gain
from svd_lightning.objective import TokenTable
from svd_lightning.records import MaskRecord, RecommendedRecord
from svd_lightning.steering import ConfidentSet, SteeringRule
from svd_lightning.strength import LineSearch

PAPER_ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""The α of the paper's ablation."""

_EFFECTIVELY_INFINITE = 20.0
"""A penalty of −20 leaves the tokens outside the mask a share of 2e-9 at most: as good as −∞."""
_FULL_COVERAGE = 0.99


def compare_masks(
    split: CalibrationSplit, rules: Sequence[SteeringRule], alphas: Sequence[float], *, folds: int
) -> list[MaskRecord]:
    """Fit strengths and λ together at each α; nothing is forbidden, so all α are scored on the same tokens.

    Args:
        split: without a penalty; its tables are built at the smallest of the α, with the rules and `ConfidentSet`.
        rules: the directions.
        alphas: the masks to try.
        folds: how many folds the cross-fit behind the gain has.
    """
    together = (*rules, ConfidentSet())
    tuned = split.tuned(rules)
    choices: list[MaskRecord] = []
    for alpha in sorted(alphas):
        narrowed = split.narrow(alpha)
        [fit] = fit_each([(LineSearch(), narrowed.objective(together))])
        [held_out] = narrowed.scores([together], cross_fit(split.example, [fit], folds=folds))
        *strengths, lift = fit.estimate.strengths
        table = narrowed.tokens
        assert isinstance(table, TokenTable)
        choices.append(
            {
                "alpha": alpha,
                "coverage": table.coverage,
                "mask_size": table.mask_size,
                "penalty": -lift,
                "strengths": strengths,
                "gain": paired_gain(held_out.fitted, tuned.fitted, split.example).plain(),
            }
        )
    return choices


def recommend(choices: Sequence[MaskRecord]) -> RecommendedRecord | None:
    """Return α and λ with the largest held-out gain, with the reason; None if there are no choices."""
    if not choices:
        return None
    best = max(choices, key=lambda choice: choice["gain"]["mean"])
    alpha, coverage, fitted = best["alpha"], best["coverage"], best["penalty"]
    forbids = fitted <= -_EFFECTIVELY_INFINITE and coverage >= _FULL_COVERAGE
    penalty = -math.inf if forbids else min(0.0, fitted)
    reason = (
        f"at alpha {alpha:g} the mask holds {coverage:.1%} of the labels, and the fitted penalty is {fitted:.3g}"
    )
    if coverage < _FULL_COVERAGE:
        reason += f": a penalty of -inf would forbid the other {1 - coverage:.1%}"
    return {"alpha": alpha, "penalty": penalty, "reason": reason, "gain": best["gain"]}
