"""From calibration tokens to the strengths that will be used, and everything a user should know about them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from svd_lightning.calibration.candidates import CONTROL, Candidate, Fit, Recipe, RecipeKey, fit, recipes
from svd_lightning.calibration.cross_fit import label_log_probs
from svd_lightning.calibration.describe import describe
from svd_lightning.calibration.masks import recommend, sweep
from svd_lightning.calibration.tasks import calibrate_tasks
from svd_lightning.calibration.verdict import explain, in_use, judge, tuned_in_use
from svd_lightning.errors import InputError
from svd_lightning.metrics import paired_gain
from svd_lightning.objective import CalibrationTokens, TokenTable
from svd_lightning.steering import Steering
from svd_lightning.strength.estimator import StrengthEstimator


def calibrate(
    data: CalibrationTokens,
    steering: Steering,
    estimator: StrengthEstimator,
    *,
    guard: bool = True,
    folds: int = 4,
    alphas: Sequence[float] = (),
    others: bool = True,
) -> dict[str, Any]:
    """Solve for the strengths, put intervals on their gain, and describe the result in plain numbers.

    Args:
        data: the calibration tokens. With a mask a table, built at the smallest α in question with the
            steering's rules and the built-in ones; without one a stream.
        steering: rules, features, mask and penalty; its strengths are ignored.
        estimator: chooses the strengths.
        guard: fall back to the control, or to the tuned model, where the steering's held-out gain is not sure.
        folds: of the cross-fit behind every gain; examples are never split.
        alphas: masks to compare; none leaves the comparison out, and so does a steering without a mask.
        others: solve the other rules and estimators too, for the comparison.

    Returns:
        What a checkpoint and `calibration.json` hold: the strengths found and those `used`, with 95 % `intervals`
        where they have some, NLL in nats per token, coverage, every candidate with the interval of its gain, the
        verdict, the same of each task, and the α sweep.

    Raises:
        InputError: for fewer than two calibration examples, several rules with an estimator for one, or a
            stream for a steering with a mask.
    """
    folds = min(folds, data.num_examples)
    if folds < 2:
        raise InputError(
            f"data.calibration: expected at least 2 examples (gains get an interval), got {data.num_examples}"
        )
    masked = _at_alpha(data, steering)
    chosen = Recipe(steering.directions, estimator)
    wanted = list(recipes(steering, estimator, others=others))
    found = _compared(masked, wanted, chosen, steering, folds=folds)
    best, held_out = found[chosen.key]
    control, held_out_control = found[CONTROL.key]
    over_control = paired_gain(held_out, held_out_control, masked.example)
    verdict = judge(best.gain, over_control, control.gain, is_control=chosen.key == CONTROL.key)
    used = {"steer": best, "control": control, "tuned": None}[verdict if guard else "steer"]
    tasks = calibrate_tasks(
        masked,
        steering,
        chosen,
        best=best,
        control=control,
        verdict=verdict,
        guard=guard,
        folds=folds,
    )
    table = data if isinstance(data, TokenTable) else None
    choices = sweep(table, steering.directions, alphas, folds=folds) if table is not None else []
    return {
        "estimator": best.estimator,
        "warning": best.warning,
        **describe(masked, steering.with_strengths(best.strengths)),
        "intervals": best.intervals,
        "gain_over_tuned": asdict(best.gain),
        "gain_over_control": asdict(over_control),
        "verdict": verdict,
        "message": explain(verdict, guard=guard),
        "guard": guard,
        "used": in_use(used.rules, used.strengths, used.intervals, used.gain) if used else tuned_in_use(steering),
        "tasks": tasks,
        "candidates": [candidate.plain() for candidate, _ in found.values()],
        "sweep": [asdict(choice) for choice in choices],
        "recommended": recommend(choices) if choices else None,
    }


def _compared(
    data: CalibrationTokens, wanted: Sequence[Recipe], chosen: Recipe, steering: Steering, *, folds: int
) -> dict[RecipeKey, tuple[Candidate, Tensor]]:
    """Each recipe's strengths with the interval of their gain, and its held-out log-probabilities, [N]."""
    penalty = steering.penalty

    def fitted(recipe: Recipe) -> Fit:
        return fit(data, recipe, penalty=penalty, folds=folds, resample=recipe.key == chosen.key)

    fits = data.map(fitted, wanted)
    zeros = torch.zeros(len(steering.directions), dtype=torch.float64)
    tuned = label_log_probs(data, steering.directions, zeros, penalty=penalty)
    return {
        recipe.key: (one.candidate(recipe, paired_gain(one.held_out, tuned, data.example)), one.held_out)
        for recipe, one in zip(wanted, fits, strict=True)
    }


def _at_alpha(data: CalibrationTokens, steering: Steering) -> CalibrationTokens:
    """The tokens under the steering's mask."""
    if isinstance(data, TokenTable) is not (steering.alpha is not None):
        raise InputError(
            "data: expected a TokenTable where the steering has a mask and a TokenStream where it has none, got a "
            f"{type(data).__name__} with steering.alpha {steering.alpha}"
        )
    return data.narrow(steering.alpha) if isinstance(data, TokenTable) and steering.alpha is not None else data
