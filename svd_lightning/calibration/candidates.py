"""Every recipe that the calibration tokens can tell about: rules, estimators, strengths, what they are worth."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from svd_lightning.calibration.comparison import Score, score
from svd_lightning.calibration.cross_fit import cross_fit
from svd_lightning.metrics import Gain
from svd_lightning.objective import CalibrationTokens, objective
from svd_lightning.records import Intervals
from svd_lightning.steering import (
    Steering,
    SteeringRule,
    TaskAware,
    TaskSteering,
    Temperature,
    rule_name,
    with_built_in,
)
from svd_lightning.strength.closed_forms import CLOSED_FORMS
from svd_lightning.strength.estimator import ClosedForm, Estimate, StrengthEstimator, estimator_name
from svd_lightning.strength.intervals import intervals
from svd_lightning.strength.line_search import LineSearch

RecipeKey = tuple[tuple[str, ...], str]
"""Names of the rules, and of the estimator."""


@dataclass(frozen=True)
class Recipe:
    """Rules and the estimator that finds their strengths."""

    rules: tuple[SteeringRule, ...]
    estimator: StrengthEstimator

    @property
    def key(self) -> RecipeKey:
        """Two recipes with the same key are the same."""
        return tuple(map(rule_name, self.rules)), estimator_name(self.estimator)


@dataclass(frozen=True)
class Candidate:
    """A recipe on the calibration tokens."""

    rules: tuple[str, ...]
    estimator: str
    strengths: tuple[float, ...]
    nll: float
    nll_decoded: float
    accuracy: float
    gain: Gain
    """Held-out gain over the tuned model (cross-fitted), in nats per token as decoded."""
    warning: str | None = None
    intervals: Intervals | None = None
    """Of the strengths, 95 %; None where they have none, or would take long and the recipe was not chosen."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "rules": list(self.rules), "strengths": list(self.strengths)}


CONTROL = Recipe((Temperature(),), LineSearch())
"""Sharpening alone, which every comparison carries."""


def joint_recipe(rules: Sequence[SteeringRule]) -> Recipe:
    """Line search of the given and the built-in rules together, but for TaskAware.

    For a small step TaskAware and KLGradient agree to first order: without it the fit is well conditioned.
    """
    return Recipe(tuple(rule for rule in with_built_in(rules) if not isinstance(rule, TaskAware)), LineSearch())


def recall(recipe: Steering, names: Sequence[str], strengths: Sequence[float]) -> Steering:
    """What a calibration record means by these rules and strengths; mask and penalty are as configured."""
    if list(names) == [rule_name(rule) for rule in recipe.directions]:
        return recipe.with_strengths(strengths)
    by_name = {rule_name(rule): rule for rule in with_built_in(recipe.rules)}
    rules = [by_name[name] for name in names]
    return replace(recipe, rules=rules, strengths=tuple(strengths), features=())


def recall_all(recipe: Steering, record: Mapping[str, Any]) -> TaskSteering:
    """What a calibration record decodes every task with; the tuned model where the guard fell back to it.

    A task that is steered as all examples are has that very steering, by which its rows are known to be alike.

    Args:
        recipe: the steering as configured.
        record: as `calibrate` returns it; those from before tasks name none.
    """
    shared = record["used"]
    steering = _in_use(recipe, shared)
    own = {
        task["task"]: steering
        if all(task["used"][part] == shared[part] for part in ("rules", "strengths"))
        else _in_use(recipe, task["used"])
        for task in record.get("tasks", [])
    }
    return TaskSteering(steering, own)


def _in_use(recipe: Steering, used: Mapping[str, Any]) -> Steering:
    """Strengths of 0 are the tuned model as it is: nothing is added outside the mask either."""
    found = recall(recipe, used["rules"], used["strengths"])
    return found if any(used["strengths"]) else found.with_penalty(0.0)


def recipes(steering: Steering, estimator: StrengthEstimator, *, others: bool = True) -> Iterator[Recipe]:
    """The control and the chosen recipe; its rules with every estimator, the other rules, and all together.

    Args:
        steering: the chosen rules.
        estimator: the chosen estimator.
        others: whether to go beyond the control and the chosen recipe.

    Features belong to the chosen recipe alone: the others show what they are worth.
    """
    rules, everything = tuple(steering.rules), with_built_in(steering.rules)
    wanted = [CONTROL, Recipe(steering.directions, estimator)]
    if not others:
        yield from {recipe.key: recipe for recipe in wanted}.values()
        return
    for rule in everything:
        if rule in rules and not isinstance(rule, Temperature):
            wanted += [Recipe((rule,), one) for one in CLOSED_FORMS]
        wanted.append(Recipe((rule,), LineSearch()))
    wanted += [Recipe(rules, LineSearch()), joint_recipe(rules), Recipe(everything, LineSearch())]
    yield from {recipe.key: recipe for recipe in wanted}.values()


@dataclass(frozen=True)
class Fit:
    """What a recipe makes of the calibration tokens."""

    estimate: Estimate
    score: Score
    held_out: Tensor
    """Cross-fitted log-probability of every label, [N]."""
    intervals: Intervals | None
    """Of the strengths."""

    def candidate(self, recipe: Recipe, gain: Gain) -> Candidate:
        """The same in plain numbers, with the gain over the tuned model."""
        names, estimator = recipe.key
        return Candidate(
            rules=names,
            estimator=estimator,
            strengths=self.estimate.strengths,
            **asdict(self.score),
            gain=gain,
            warning=self.estimate.warning,
            intervals=self.intervals,
        )


def fit(data: CalibrationTokens, recipe: Recipe, *, penalty: float, folds: int, resample: bool = True) -> Fit:
    """A recipe's strengths and scores on the tokens, and how it does on the folds that it has not seen.

    Args:
        data: the calibration tokens.
        recipe: what to fit.
        penalty: λ of decoding.
        folds: of the cross-fit.
        resample: draw examples again where the strength has no other interval: of a closed form, which takes
            longer than all the rest.
    """
    problem = objective(data, recipe.rules, penalty=penalty)
    estimate = recipe.estimator(problem)
    result = score(data, recipe.rules, estimate.strengths, penalty=penalty)
    held_out = cross_fit(
        data, recipe.rules, recipe.estimator, penalty=penalty, folds=folds, whole=estimate.strengths
    )
    known = resample or not isinstance(recipe.estimator, ClosedForm)
    bounds = intervals(recipe.estimator, problem, estimate, data.example) if known else None
    return Fit(estimate, result, held_out, bounds)


def rescore(
    data: CalibrationTokens, found: Sequence[dict[str, Any]], rules: Sequence[SteeringRule], *, penalty: float
) -> list[dict[str, Any]]:
    """The same candidates with the same strengths, scored on other, held-out tokens.

    Args:
        data: the other tokens.
        found: candidates as a calibration record holds them.
        rules: the rules that they name.
        penalty: λ of decoding.
    """
    by_name = {rule_name(rule): rule for rule in rules}
    again = []
    for candidate in found:
        chosen = [by_name[name] for name in candidate["rules"]]
        result = score(data, chosen, candidate["strengths"], penalty=penalty)
        again.append({**candidate, **asdict(result)})
    return again
