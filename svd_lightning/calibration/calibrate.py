"""The calibration procedure: from calibration tokens to the strengths in use, and the record of all results."""

from collections.abc import Sequence

from svd_lightning.calibration.candidates import CONTROL, Recipe, fit_all, recipes
from svd_lightning.calibration.cross_fit import tuned_log_probs
from svd_lightning.calibration.describe import figures
from svd_lightning.calibration.masks import compare_masks, recommend
from svd_lightning.calibration.tasks import calibrate_tasks
from svd_lightning.calibration.verdict import decide, explain, used_record
from svd_lightning.errors import InputError
from svd_lightning.metrics import paired_gain
from svd_lightning.objective import CalibrationTokens, TokenTable
from svd_lightning.records import CalibrationRecord
from svd_lightning.steering import Steering
from svd_lightning.strength import StrengthEstimator


def calibrate(
    tokens: CalibrationTokens,
    steering: Steering,
    estimator: StrengthEstimator,
    *,
    guard: bool = True,
    folds: int = 4,
    alphas: Sequence[float] = (),
    others: bool = True,
) -> CalibrationRecord:
    """Solve for the strengths, put intervals on their gain, and describe the result in plain numbers.

    Args:
        tokens: the calibration tokens. With a mask a table, built at the smallest α in question with the
            steering's rules and the built-in ones; without one a stream.
        steering: rules, features, mask and penalty; its strengths are ignored.
        estimator: chooses the strengths.
        guard: fall back to the control, or to the tuned model, where the steering's held-out gain is not sure.
        folds: how many folds the cross-fit behind every gain has; examples are never split.
        alphas: masks to compare; nothing is compared without any, or where the steering has no mask.
        others: fit the other rules and estimators too, for the comparison.

    Returns:
        What a checkpoint and `calibration.json` hold: the strengths found and those `used`, with 95 % `intervals`
        where they have some, NLL in nats per token, coverage, every candidate with the interval of its gain, the
        verdict, the same for each task, and the comparison of masks.

    Raises:
        InputError: for fewer than two calibration examples, several rules with an estimator for one, or a
            stream for a steering with a mask.
    """
    folds = min(folds, tokens.num_examples)
    if folds < 2:
        raise InputError(
            f"data.calibration: expected at least 2 examples (gains get an interval), got {tokens.num_examples}"
        )
    masked, rules = _under_mask(tokens, steering), steering.directions
    chosen = Recipe(rules, estimator)
    tuned = tuned_log_probs(masked, rules)
    wanted = recipes(steering, estimator, others=others)
    found = fit_all(masked, wanted, tuned, chosen=chosen, penalty=steering.penalty, folds=folds)
    best, control = found[chosen.key], found[CONTROL.key]
    over_control = paired_gain(best.held_out, control.held_out, masked.example)
    verdict = decide(best.gain, over_control, control.gain, is_control=best is control)
    used = {"steer": best.used(), "control": control.used(), "tuned": used_record(rules)}
    tasks = calibrate_tasks(masked, steering, best, control, tuned, verdict=verdict, guard=guard, folds=folds)
    masks = compare_masks(tokens, rules, alphas, folds=folds) if isinstance(tokens, TokenTable) else []
    return {
        "estimator": chosen.key[1],
        "warning": best.estimate.warning,
        **figures(masked, steering.with_strengths(best.estimate.strengths), best.outcome),
        "intervals": best.intervals,
        "gain_over_tuned": best.gain.plain(),
        "gain_over_control": over_control.plain(),
        "verdict": verdict,
        "message": explain(verdict, guard=guard),
        "guard": guard,
        "used": used[verdict if guard else "steer"],
        "tasks": tasks,
        "candidates": [candidate.plain() for candidate in found.values()],
        "sweep": masks,
        "recommended": recommend(masks),
    }


def _under_mask(tokens: CalibrationTokens, steering: Steering) -> CalibrationTokens:
    """Return the tokens under the steering's mask."""
    if isinstance(tokens, TokenTable) is not (steering.alpha is not None):
        raise InputError(
            "data: expected a TokenTable where the steering has a mask and a TokenStream where it has none, got a "
            f"{type(tokens).__name__} with steering.alpha {steering.alpha}"
        )
    if isinstance(tokens, TokenTable) and steering.alpha is not None:
        return tokens.narrow(steering.alpha)
    return tokens
