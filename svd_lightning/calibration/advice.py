"""What else a user should know of a calibration: too small, a harmful adapter, a recipe that surely helps."""

import json
from collections.abc import Mapping, Sequence

from svd_lightning.calibration.candidates import Candidate, evidence
from svd_lightning.calibration.recipes import CONTROL, RecipeKey
from svd_lightning.calibration.split import CalibrationSplit, Scores
from svd_lightning.calibration.verdict import Verdict
from svd_lightning.metrics import joint_level, paired_gain
from svd_lightning.objective import CalibrationTokens
from svd_lightning.records import PER_TOKEN
from svd_lightning.steering import Steering, SteeringRule
from svd_lightning.steering.saved import as_plain

ENOUGH = 30
"""Examples below which a bootstrap interval of a mean is noticeably too short, and small gains cannot be told."""


def too_small(examples: int) -> list[str]:
    """Return a warning if a calibration split is too small to decide by; else nothing.

    >>> too_small(13)[0][:52]
    '13 calibration examples are too few to decide by: in'
    """
    if examples >= ENOUGH:
        return []
    return [
        f"{examples} calibration examples are too few to decide by: intervals of fewer than {ENOUGH} are too "
        "short; raise data.calibration (a number or a share of the training examples)"
    ]


def harmful_adapter(tokens: CalibrationTokens) -> list[str]:
    """Return that the base alone does surely better than the tuned model, if it does; else nothing."""
    gain = paired_gain(tokens.label_log_q.double(), tokens.label_log_p.double(), tokens.example)
    if not gain.sure:
        return []
    return [
        f"the base without the adapter surely does better than the tuned model, by {gain} {PER_TOKEN}: train the "
        "adapter on, or leave it out; gains over the tuned model are only a part of that"
    ]


def better_recipe(
    split: CalibrationSplit,
    found: Mapping[RecipeKey, Candidate],
    tuned: Scores,
    steering: Steering,
    *,
    chosen: RecipeKey,
    verdict: Verdict,
) -> list[str]:
    """Return which other recipe surely helps, and how to use it; else nothing.

    Its gain over the tuned model, over the control and over the chosen recipe (if that is used) is above zero, MC1
    is not surely lower, and the intervals hold for all that are compared at once.

    Args:
        found: all candidates.
        tuned: of the tuned model as it is.
        steering: as configured.
        chosen, verdict: the configured recipe, and the verdict on it.
    """
    others = [one for key, one in found.items() if key not in (chosen, CONTROL.key)]
    if not others:
        return []
    level = joint_level([one.held_out.fitted for one in others], tuned.fitted, split.example)
    rivals = [found[CONTROL.key].held_out, *([found[chosen].held_out] if verdict == "steer" else [])]
    sure = []
    for one in others:
        if not one.over_tuned.helps:
            continue
        gain = evidence(split, one.held_out, tuned, level=level).gain
        if gain.sure and all(evidence(split, one.held_out, rival, level=level).gain.sure for rival in rivals):
            sure.append((gain.low, gain, one))
    if not sure:
        return []
    _, gain, best = max(sure, key=lambda each: each[0])
    names, estimator = best.recipe.key
    more = "surely helps more than the configured recipe" if verdict == "steer" else "surely helps"
    return [
        f"{' + '.join(names)} by {estimator} {more}: {gain} {split.unit} over the tuned model, the interval "
        f"widened for the best of {len(others)} compared; to use it, calibrate with "
        f"{options(best.recipe.rules, estimator, features=bool(steering.features))}"
    ]


def options(rules: Sequence[SteeringRule], estimator: str, *, features: bool = False) -> str:
    """Return the command line's options for a recipe.

    Args:
        features: whether the configuration has some, which the recipe has not.

    >>> from svd_lightning.steering import KLGradient, Temperature
    >>> options([KLGradient(), Temperature()], "LineSearch")
    "--model.steering.rules '[svd_lightning.steering.KLGradient, svd_lightning.steering.Temperature]' \
--calibration.estimator svd_lightning.strength.LineSearch"
    """
    parts = as_plain(Steering(list(rules)))["rules"]
    texts = [json.dumps(part) if part["init_args"] else part["class_path"] for part in parts]
    without = " --model.steering.features '[]'" if features else ""
    found_by = f"--calibration.estimator svd_lightning.strength.{estimator}"
    return f"--model.steering.rules '[{', '.join(texts)}]'{without} {found_by}"
