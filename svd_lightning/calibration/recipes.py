"""Which recipes a calibration tries."""

from collections.abc import Sequence
from dataclasses import dataclass

from svd_lightning.steering import Steering, SteeringRule, TaskAware, Temperature, rule_name, with_built_in
from svd_lightning.strength import CLOSED_FORMS, LineSearch, StrengthEstimator, estimator_name

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


CONTROL = Recipe((Temperature(),), LineSearch())
"""Sharpening alone, which every comparison carries."""


def joint_recipe(rules: Sequence[SteeringRule]) -> Recipe:
    """Return the line search of the given and the built-in rules together, but for TaskAware.

    For a small step TaskAware and KLGradient agree to first order: without it the fit is well conditioned.
    """
    return Recipe(tuple(rule for rule in with_built_in(rules) if not isinstance(rule, TaskAware)), LineSearch())


def recipes(steering: Steering, estimator: StrengthEstimator, *, others: bool = True) -> list[Recipe]:
    """Return the control and the chosen recipe; its rules with every estimator, the other rules, and all together.

    Args:
        steering: the chosen rules.
        estimator: the chosen estimator.
        others: whether to go beyond the control and the chosen recipe.

    Features belong to the chosen recipe alone: the others show what they are worth.
    """
    rules, everything = tuple(steering.rules), with_built_in(steering.rules)
    wanted = [CONTROL, Recipe(steering.directions, estimator)]
    for rule in everything if others else ():
        if rule in rules and not isinstance(rule, Temperature):
            wanted += [Recipe((rule,), one) for one in CLOSED_FORMS]
        wanted.append(Recipe((rule,), LineSearch()))
    if others:
        wanted += [Recipe(rules, LineSearch()), joint_recipe(rules), Recipe(everything, LineSearch())]
    return list({recipe.key: recipe for recipe in wanted}.values())
