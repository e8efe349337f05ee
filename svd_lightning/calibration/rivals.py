"""What a calibration can choose from, side by side whatever its kind."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from svd_lightning.calibration.candidates import Candidate
from svd_lightning.calibration.corrections import FittedCorrection
from svd_lightning.calibration.recipes import CONTROL, RecipeKey
from svd_lightning.calibration.split import CalibrationSplit, Scores
from svd_lightning.calibration.verdict import Verdict, switched_off, temperature_word
from svd_lightning.metrics import mc1
from svd_lightning.records import CalibrationRecord, ScoredRecord, UsedRecord


@dataclass(frozen=True)
class Rival:
    """A candidate for use, whatever its kind."""

    name: str
    """As `in_use` has it."""
    words: str
    """What a message calls it."""
    scores: Scores
    """Held out."""
    beyond: tuple[Scores, ...]
    """What it must surely do better than."""
    verdict: Verdict
    used: UsedRecord | None
    """The record's entry if it is used; None for what the verdict on the configured steering speaks of."""
    by_task: bool = True
    """Whether a task that it harms may be decoded otherwise."""
    drift: float = math.inf
    """How far it moves text outside the answers, KL in nats; infinite where nobody has measured it."""


def free_rivals(
    split: CalibrationSplit,
    tuned: Scores,
    record: CalibrationRecord,
    corrections: Sequence[FittedCorrection],
    recipes: Mapping[RecipeKey, Candidate],
    *,
    chosen: RecipeKey,
) -> list[Rival]:
    """Return what decodes without the base, the simplest first."""
    off = switched_off(record["rules"], "")["used"]
    control, scored = recipes[CONTROL.key], dict(zip(recipes, record["candidates"], strict=True))[CONTROL.key]
    words = f"{temperature_word(control.estimate.strengths[0])} alone"
    stands = record["verdict"] != "steer" or chosen == CONTROL.key  # the verdict speaks of it already
    used = None if stands else control.used()
    found = [Rival("control", words, control.held_out, (tuned,), "control", used, drift=drift_of(scored))]
    for one, known in zip(corrections, record["corrections"], strict=True):
        corrected: UsedRecord = {**off, "correction": one.name}
        scores, by_task = scores_of(split, one), one.correction.by_task
        rival = Rival(one.name, one.in_words, scores, (tuned,), "correct", corrected, by_task, drift_of(known))
        found.append(rival)
    return found


def drift_of(scored: ScoredRecord) -> float:
    """Return the drift in a record, infinite where there is none."""
    return scored.get("drift", math.inf)


def steered_rivals(
    tuned: Scores, recipes: Mapping[RecipeKey, Candidate], *, chosen: RecipeKey, verdict: str, any_recipe: bool
) -> list[Rival]:
    """Return the configured recipe, if it is to steer; with `any_recipe` the others, those of few rules first."""
    beyond = tuned, recipes[CONTROL.key].held_out
    found = []
    if verdict == "steer":
        found.append(Rival("steer", "steering", recipes[chosen].held_out, beyond, "steer", None))
    others = [one for key, one in recipes.items() if key not in (chosen, CONTROL.key)] if any_recipe else []
    for one in sorted(others, key=lambda each: len(each.recipe.rules)):
        names, estimator = one.recipe.key
        name = f"{' + '.join(names)} by {estimator}"
        found.append(Rival(name, name, one.held_out, beyond, "steer", {**one.used(), "recipe": name}))
    return found


def scores_of(split: CalibrationSplit, fitted: FittedCorrection) -> Scores:
    """Return the held-out scores of a correction."""
    if split.questions is None or fitted.options is None:
        return Scores(fitted.labels, fitted.labels, None)
    choices = split.questions.choices
    first = mc1(choices.options, fitted.options)
    return Scores(choices.log_probs(fitted.options) if split.by_choice else fitted.labels, fitted.labels, first)
