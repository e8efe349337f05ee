"""The fit of every recipe that a calibration tries, and what each is worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.calibration.cross_fit import Fit, cross_fit, fit_each
from svd_lightning.calibration.describe import Outcome, outcome
from svd_lightning.calibration.recipes import Recipe, RecipeKey
from svd_lightning.calibration.split import CalibrationSplit, Scores
from svd_lightning.calibration.verdict import Evidence, used_record
from svd_lightning.metrics import Gain, paired_gain
from svd_lightning.objective import TokenObjective, TokenStream
from svd_lightning.records import CandidateRecord, Intervals, UsedRecord
from svd_lightning.signals import check
from svd_lightning.strength import Estimate
from svd_lightning.strength.estimator import ClosedForm
from svd_lightning.strength.intervals import intervals


@dataclass(frozen=True)
class Candidate:
    """A fitted recipe with its gain."""

    recipe: Recipe
    estimate: Estimate
    outcome: Outcome
    held_out: Scores
    """With strengths from other folds (cross-fitted)."""
    fold_strengths: list[list[float]]
    """The strengths found without each fold."""
    over_tuned: Evidence
    """Held-out gains over the tuned model."""
    intervals: Intervals | None
    """Of the strengths, 95 %; None where they have none, or need a bootstrap and the recipe is not chosen."""

    def plain(self) -> CandidateRecord:
        """Return it as JSON has it."""
        (rules, estimator), gains = self.recipe.key, self.over_tuned.plain()
        return {
            "rules": list(rules),
            "estimator": estimator,
            "strengths": list(self.estimate.strengths),
            "nll": self.outcome.nll,
            "nll_decoded": self.outcome.nll_decoded,
            "accuracy": self.outcome.accuracy,
            "gain": gains["gain_over_tuned"],
            "gain_likelihood": gains["gain_likelihood"],
            "gain_mc1": gains["gain_mc1"],
            "warning": self.estimate.warning,
            "intervals": self.intervals,
        }

    def as_fit(self, problem: TokenObjective) -> Fit:
        """Return it with the objective on which it was fitted, which is not kept: that of a table is large."""
        return Fit(self.recipe.estimator, problem, self.estimate, self.intervals)

    def used(self) -> UsedRecord:
        """Return the record's `used` entry if decoding uses this candidate."""
        gain, by_fold = self.over_tuned.gain, self.fold_strengths
        return used_record(self.recipe.rules, self.estimate.strengths, self.intervals, gain, by_fold)


def evidence(
    split: CalibrationSplit, better: Scores, worse: Scores, *, among: Tensor | None = None, level: float = 0.95
) -> Evidence:
    """Return the paired gains of one distribution over another, on all examples or among some (int64 numbers)."""

    def gain(one: Tensor, other: Tensor, example: Tensor) -> Gain:
        mine = slice(None) if among is None else torch.isin(example, among)
        return paired_gain(one[mine], other[mine], example[mine], level=level)

    fitted = gain(better.fitted, worse.fitted, split.example)
    likelihood = gain(better.labels, worse.labels, split.tokens.example) if split.by_choice else fitted
    if split.questions is None or better.mc1 is None or worse.mc1 is None:
        return Evidence(fitted, likelihood, None)
    return Evidence(fitted, likelihood, gain(better.mc1, worse.mc1, split.questions.choices.number))


def fit_all(
    split: CalibrationSplit,
    wanted: Sequence[Recipe],
    tuned: Scores,
    *,
    chosen: Recipe,
    penalty: float,
    folds: int,
) -> dict[RecipeKey, Candidate]:
    """Fit every recipe to the split, and measure its gain on folds that it has not seen.

    Args:
        tuned: of the tuned model as it is.
        chosen: the recipe whose strengths get an interval even from a closed form, where a bootstrap over the
            examples takes longer than all the rest.
        penalty: λ of decoding, for the figures; strengths are fitted and judged under the split's.
        folds: how many folds the cross-fit has.
    """
    # a stream answers all recipes in the same passes; for a table, one at a time takes the least memory
    tokens = split.tokens
    groups = [wanted] if isinstance(tokens, TokenStream) else [[recipe] for recipe in wanted]
    found: dict[RecipeKey, Candidate] = {}
    for group in groups:
        check()
        problems = [split.objective(recipe.rules) for recipe in group]
        fits = fit_each([(recipe.estimator, one) for recipe, one in zip(group, problems, strict=True)])
        achieved = [
            outcome(tokens, recipe.rules, fit.estimate.strengths, penalty=penalty)
            for recipe, fit in zip(group, fits, strict=True)
        ]
        bounds = [
            None
            if isinstance(recipe.estimator, ClosedForm) and recipe.key != chosen.key
            else intervals(recipe.estimator, fit.objective, fit.estimate, tokens.example)
            for recipe, fit in zip(group, fits, strict=True)
        ]
        parts = cross_fit(split.example, fits, folds=folds)
        held_out = split.scores([recipe.rules for recipe in group], parts)
        for recipe, fit, result, bound, mine, unseen in zip(
            group, fits, achieved, bounds, parts, held_out, strict=True
        ):
            by_fold = [part.strengths.tolist() for part in mine]
            over_tuned = evidence(split, unseen, tuned)
            found[recipe.key] = Candidate(recipe, fit.estimate, result, unseen, by_fold, over_tuned, bound)
    return found
