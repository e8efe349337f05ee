"""The choice among all that a calibration has fitted: of what does as well as the best, the mildest."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.calibration.candidates import Candidate, evidence
from svd_lightning.calibration.corrections import FittedCorrection
from svd_lightning.calibration.describe import by_task
from svd_lightning.calibration.recipes import CONTROL, RecipeKey
from svd_lightning.calibration.split import CalibrationSplit, Scores, example_folds
from svd_lightning.calibration.verdict import (
    AS_IT_IS,
    SwitchedOff,
    Verdict,
    in_use,
    switched_off,
    temperature_word,
)
from svd_lightning.metrics import Gain, mc1
from svd_lightning.records import CalibrationRecord, CorrectionRecord, ScoredRecord, UsedRecord

_TWO_ERRORS = 2 * 1.96
"""Standard errors that a 95 % interval spans."""
_MOST_REFUSED = 4
"""Candidates that a check may refuse, one after the other, before the tuned model is used."""

Check = Callable[[CalibrationRecord], CalibrationRecord]
"""Looks at what a record uses: the same record, perhaps with more in it, or one that uses the tuned model."""
Measure = Callable[[CalibrationRecord], CalibrationRecord]
"""Returns a record with the drift of every candidate and correction."""


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


def decided(
    record: CalibrationRecord,
    split: CalibrationSplit,
    tuned: Scores,
    corrections: Sequence[FittedCorrection],
    recipes: Mapping[RecipeKey, Candidate],
    *,
    chosen: RecipeKey,
    any_recipe: bool,
    folds: int,
    measure: Measure,
    check: Check,
) -> CalibrationRecord:
    """Return the record with the best candidate that a check lets pass in use, and why others are not.

    Candidates are those whose held-out gain over the tuned model is sure (of a steering, over the control too), by
    Bonferroni's intervals for as many as there are, and that surely harm nothing. Several may lie within one
    standard error of the best. Temperature and corrections decode at the same price: of those among them the one
    of least drift is taken. Only if there is none, it is a steering, the first from simple to dear. The gain that
    is reported is not the winner's luck: for each fold the choice among them is made on the other folds. If that
    gain is not sure, the verdict on the configured steering stands.

    Args:
        record: with the verdict on the configured steering alone.
        recipes: all that were fitted.
        chosen: the configured one.
        any_recipe: take any of the recipes, not the configured one alone.
        folds: as the cross-fit has them.
        measure: measures drifts; without them the simplest is taken, in the order temperature, corrections.
        check: refuses what is not to be used.
    """
    record = measure({**record, "corrections": correction_records(split, tuned, corrections)})
    order = _free(split, tuned, record, corrections, recipes, chosen=chosen)
    order += _steered(tuned, recipes, chosen=chosen, verdict=record["verdict"], any_recipe=any_recipe)
    refused: dict[str, CalibrationRecord] = {}
    while True:
        left = [] if len(refused) >= _MOST_REFUSED else [one for one in order if one.name not in refused]
        best, gain = choose(split, tuned, left, folds=folds)
        surely = best if best is not None and best.used is not None and gain.sure else None
        now = adopted(record, split, tuned, surely, gain) if surely and record["guard"] else record
        wanted = in_use(now)
        checked = refused.get(wanted or "") or check(now)
        if wanted is None or wanted in refused or in_use(checked) == wanted:
            others = [each["message"].removesuffix(AS_IT_IS) for name, each in refused.items() if name != wanted]
            unused = []
            if surely and not record["guard"]:
                unused = _left_out(surely, gain)
            elif wanted is None and not refused:
                unused = _perhaps_luck(split, tuned, order)
            return {**checked, "advice": [*checked.get("advice", []), *others, *unused]}
        refused[wanted] = checked


def _free(
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


def _steered(
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


def _left_out(best: Rival, gain: Gain) -> list[str]:
    """Return what the guard would use, where it is off."""
    return [f"with the guard {best.words} would be used: its held-out gain is {gain}"]


def _perhaps_luck(split: CalibrationSplit, tuned: Scores, order: Sequence[Rival]) -> list[str]:
    """Return why the best correction is not used, whose own interval lies above zero."""
    found = [(evidence(split, one.scores, tuned), one) for one in order if one.verdict == "correct"]
    sure = [(each.gain.mean, each.gain, one) for each, one in found if each.helps]
    if not sure:
        return []
    _, gain, best = max(sure, key=lambda each: each[0])
    return [
        f"{best.words} gains {gain} by itself, but as the best of {len(order)} candidates that is not sure: it is "
        "not used; more calibration examples would tell"
    ]


def scores_of(split: CalibrationSplit, fitted: FittedCorrection) -> Scores:
    """Return the held-out scores of a correction."""
    if split.questions is None or fitted.options is None:
        return Scores(fitted.labels, fitted.labels, None)
    choices = split.questions.choices
    first = mc1(choices.options, fitted.options)
    return Scores(choices.log_probs(fitted.options) if split.by_choice else fitted.labels, fitted.labels, first)


def choose(
    split: CalibrationSplit, tuned: Scores, order: Sequence[Rival], *, folds: int
) -> tuple[Rival | None, Gain]:
    """Return the candidate to use, None for the tuned model, and the held-out gain of choosing so.

    Args:
        order: the candidates, from cheap and simple to dear.
        folds: for each of them the choice is made on the others.
    """
    level = 1.0 - 0.05 / max(1, len(order))  # Bonferroni's: of many candidates that gain nothing, some seem to
    eligible = [one for one in order if _surely_helps(split, tuned, one, level)]
    numbers, fold = example_folds(split.example, folds)
    unseen = tuned.fitted.clone()
    for number in range(folds if eligible else 0):
        others, mine = numbers[fold != number], torch.isin(split.example, numbers[fold == number])
        unseen[mine] = _pick(split, tuned, eligible, others).scores.fitted[mine]
    gain = evidence(split, Scores(unseen, tuned.labels, None), tuned).gain
    return (_pick(split, tuned, eligible, None) if eligible else None), gain


def _surely_helps(split: CalibrationSplit, tuned: Scores, one: Rival, level: float) -> bool:
    """Return whether a candidate surely gains, and surely harms nothing, nor a task that must share it."""
    gains = (evidence(split, one.scores, other, level=level).gain for other in one.beyond)
    tasks = {} if one.by_task else by_task(split.tokens.example, split.tokens.tasks)
    harms = (evidence(split, one.scores, tuned, among=examples).harm for examples in (None, *tasks.values()))
    return all(gain.sure for gain in gains) and not any(harms)


def _pick(split: CalibrationSplit, tuned: Scores, order: Sequence[Rival], among: Tensor | None) -> Rival:
    """Return which of those within one standard error of the best to use, by some examples (None for all)."""
    gains = [evidence(split, one.scores, tuned, among=among).gain.mean for one in order]
    best = order[gains.index(max(gains))]
    behind = [evidence(split, best.scores, one.scores, among=among).gain for one in order]
    near = [one for one, gap in zip(order, behind, strict=True) if gap.mean <= (gap.high - gap.low) / _TWO_ERRORS]
    free = [one for one in near if one.verdict != "steer"]
    return min(free, key=lambda one: one.drift) if free else near[0]


def correction_records(
    split: CalibrationSplit, tuned: Scores, corrections: Sequence[FittedCorrection]
) -> list[CorrectionRecord]:
    """Return what the record says of every correction that was tried."""
    found: list[CorrectionRecord] = []
    for one in corrections:
        over_tuned = evidence(split, scores_of(split, one), tuned)
        found.append(
            {
                "name": one.name,
                "tokens": len(one.correction.tokens),
                "settings": dict(one.settings),
                "nll": one.nll,
                "accuracy": one.accuracy,
                "gain": over_tuned.gain.plain(),
                "gain_likelihood": over_tuned.likelihood.plain(),
                "gain_mc1": over_tuned.plain().get("gain_mc1"),
            }
        )
    return found


def adopted(
    record: CalibrationRecord, split: CalibrationSplit, tuned: Scores, best: Rival, gain: Gain
) -> CalibrationRecord:
    """Return the record with a candidate in use, but for the tasks that it surely harms.

    Args:
        record: with the verdict on the configured steering.
        best: what is to be used.
        gain: held out, over the tuned model.
    """
    assert best.used is not None
    price = "" if best.verdict == "steer" else ", and it costs nothing at decoding"
    message = (
        f"{best.words} helps most: its held-out gain over the tuned model is {gain} {split.unit}{price} "
        f"({split.tokens.num_examples} calibration examples)"
    )
    used: UsedRecord = {**best.used, "gain": gain.plain()}
    mine: SwitchedOff = {"verdict": best.verdict, "message": message, "used": used}
    groups = by_task(split.tokens.example, split.tokens.tasks)
    tasks = []
    for task in record["tasks"]:
        harm = evidence(split, best.scores, tuned, among=groups[task["task"]]).harm
        why = f"{best.words} is not used: in this task it surely {harm}{AS_IT_IS}"
        found = mine if harm is None else switched_off(record["rules"], why)
        tasks.append({**task, **found, "judged_by": "pool" if harm is None else "task"})
    return {**record, **mine, "tasks": tasks}  # type: ignore[typeddict-item]
