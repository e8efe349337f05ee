"""From a calibration table to the strengths that will be used, and everything a user should know about them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from svd_lightning.calibration import TokenTable, base_nll, score, tuned_nll
from svd_lightning.errors import InputError
from svd_lightning.steering import Steering, feature_name, rule_name
from svd_lightning.strength.candidates import CONTROL, Recipe, evaluate, recipes
from svd_lightning.strength.estimate import StrengthEstimator
from svd_lightning.strength.guard import Gain, label_log_probs, paired_gain
from svd_lightning.strength.sweep import recommend, sweep


def calibrate(
    table: TokenTable,
    steering: Steering,
    estimator: StrengthEstimator,
    *,
    guard: bool = True,
    folds: int = 4,
    alphas: Sequence[float] = (),
) -> dict[str, Any]:
    """Solve for the strengths, put intervals on their gain, and describe the result in plain numbers.

    Args:
        table: the calibration tokens, built at the smallest α in question with the steering's rules and the
            built-in ones.
        steering: rules, features, mask and penalty; its strengths are ignored.
        estimator: chooses the strengths.
        guard: fall back to the control, or to the tuned model, where the steering's held-out gain is not sure.
        folds: of the cross-fit behind every gain; examples are never split.
        alphas: masks to compare; none leaves the comparison out.

    Returns:
        What a checkpoint and `calibration.json` hold: the strengths found and those `used`, NLL in nats per
        token, coverage, every candidate with the interval of its gain, the verdict, and the α sweep.

    Raises:
        InputError: for fewer than two calibration examples, or several rules with an estimator for one.
    """
    folds = min(folds, table.num_examples)
    if folds < 2:
        raise InputError(
            f"data.calibration: expected at least 2 examples (gains get an interval), got {table.num_examples}"
        )
    masked = table.narrow(steering.alpha) if steering.alpha is not None else table
    zeros = torch.zeros(len(steering.directions), dtype=torch.float64)
    tuned = label_log_probs(masked, steering.directions, zeros, penalty=steering.penalty)
    chosen = Recipe(steering.directions, estimator)
    found = {
        recipe.key: evaluate(masked, recipe, penalty=steering.penalty, tuned=tuned, folds=folds)
        for recipe in recipes(steering, estimator)
    }
    best, held_out = found[chosen.key]
    control, held_out_control = found[CONTROL.key]
    over_control = paired_gain(held_out, held_out_control, masked.example)
    verdict = judge(best.gain, over_control, control.gain, is_control=chosen.key == CONTROL.key)
    used = {"steer": best, "control": control, "tuned": None}[verdict if guard else "steer"]
    choices = sweep(table, steering.directions, alphas, folds=folds) if alphas else []
    return {
        "estimator": best.estimator,
        "warning": best.warning,
        **describe(masked, steering.with_strengths(best.strengths)),
        "gain_over_tuned": asdict(best.gain),
        "gain_over_control": asdict(over_control),
        "verdict": verdict,
        "message": explain(verdict, guard=guard),
        "guard": guard,
        "used": {
            "rules": list(used.rules) if used else [rule_name(rule) for rule in steering.directions],
            "strengths": list(used.strengths) if used else [0.0] * len(steering.directions),
            "gain": asdict(used.gain) if used else asdict(Gain(0.0, 0.0, 0.0)),
        },
        "candidates": [candidate.plain() for candidate, _ in found.values()],
        "sweep": [asdict(choice) for choice in choices],
        "recommended": recommend(choices) if choices else None,
    }


def judge(over_tuned: Gain, over_control: Gain, control: Gain, *, is_control: bool) -> str:
    """`steer`, `control` or `tuned`: the furthest step whose held-out gain is sure."""
    if over_tuned.sure and (over_control.sure or is_control):
        return "steer"
    return "control" if control.sure else "tuned"


def explain(verdict: str, *, guard: bool) -> str:
    """The verdict in words."""
    told = {
        "steer": "steering helps: the held-out gain over the tuned model and over sharpening is above zero",
        "control": "steering does not help here beyond sharpening: its gain over the control may be zero",
        "tuned": "steering does not help here: its held-out gain over the tuned model may be zero",
    }[verdict]
    done = {"steer": "", "control": "; the control is used", "tuned": "; the tuned model is used as it is"}[
        verdict
    ]
    return told + (done if guard else "; guard is off, so the strengths found are used all the same" * bool(done))


def describe(table: TokenTable, steering: Steering) -> dict[str, Any]:
    """What a calibrated steering does on a table of tokens, in plain numbers and strings."""
    assert steering.strengths is not None
    directions = steering.directions
    tuned = score(table, directions, [0.0] * len(directions), penalty=steering.penalty)
    steered = score(table, directions, steering.strengths, penalty=steering.penalty)
    return {
        "rules": [rule_name(rule) for rule in directions],
        "features": [feature_name(feature) for feature in steering.features],
        "alpha": steering.alpha,
        "penalty": steering.penalty,
        "strengths": list(steering.strengths),
        "tokens": table.num_tokens,
        "examples": table.num_examples,
        "coverage": table.coverage,
        "mask_size": table.mask_size,
        "kl_to_reference": table.kl.double().mean().item(),
        "nll_base": base_nll(table),
        "nll_tuned": tuned_nll(table),
        "nll_steered": steered.nll,
        "nll_decoded_tuned": tuned.nll_decoded,
        "nll_decoded_steered": steered.nll_decoded,
        "accuracy_tuned": tuned.accuracy,
        "accuracy_steered": steered.accuracy,
    }
