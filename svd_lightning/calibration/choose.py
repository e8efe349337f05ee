"""The choice among all that a calibration has fitted: of what does as well as the best, the mildest."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from svd_lightning.calibration.candidates import Candidate, evidence
from svd_lightning.calibration.corrections import FittedCorrection
from svd_lightning.calibration.describe import by_task
from svd_lightning.calibration.recipes import RecipeKey
from svd_lightning.calibration.rivals import Rival, free_rivals, scores_of, steered_rivals
from svd_lightning.calibration.split import CalibrationSplit, Scores, example_folds
from svd_lightning.calibration.verdict import (
    AS_IT_IS,
    SwitchedOff,
    in_use,
    switched_off,
)
from svd_lightning.metrics import Gain, joint_level
from svd_lightning.records import CalibrationRecord, CorrectionRecord, UsedRecord

_TWO_ERRORS = 2 * 1.96
"""Standard errors that a 95 % interval spans."""
_MUCH = 0.5
"""Drift, in nats per token, from which a milder correction is named."""
_MOST_REFUSED = 4
"""Candidates that a check may refuse, one after the other, before the tuned model is used."""

Check = Callable[[CalibrationRecord], CalibrationRecord]
"""Looks at what a record uses: the same record, perhaps with more in it, or one that uses the tuned model."""
Measure = Callable[[CalibrationRecord], CalibrationRecord]
"""Returns a record with the drift of every candidate and correction."""


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
    intervals that hold for all of them at once, and that surely harm nothing. Several may lie within one standard
    error of the best. Temperature and corrections decode at the same price: of those among them the one of least
    drift is taken. Only if there is none, it is a steering, the first from simple to dear. The gain that is
    reported is not the winner's luck: for each fold the choice among them is made on the other folds. If that gain
    is not sure, the verdict on the configured steering stands.

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
    order = free_rivals(split, tuned, record, corrections, recipes, chosen=chosen)
    order += steered_rivals(tuned, recipes, chosen=chosen, verdict=record["verdict"], any_recipe=any_recipe)
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
            elif surely:
                unused = _milder(split, tuned, surely, left)
            elif wanted is None and not refused:
                unused = _perhaps_luck(split, tuned, order)
            return {**checked, "advice": [*checked.get("advice", []), *others, *unused]}
        refused[wanted] = checked


def _left_out(best: Rival, gain: Gain) -> list[str]:
    """Return what the guard would use, where it is off."""
    return [f"with the guard {best.words} would be used: its held-out gain is {gain}"]


def _milder(split: CalibrationSplit, tuned: Scores, best: Rival, order: Sequence[Rival]) -> list[str]:
    """Return which correction may gain as much as the best, and moves other text less than half as far."""
    if best.verdict != "correct" or best.drift <= _MUCH:
        return []
    found = [
        one
        for one in _helping(split, tuned, order)
        if one.verdict == "correct"
        and 2 * one.drift < best.drift
        and not evidence(split, best.scores, one.scores).gain.sure
    ]
    if not found:
        return []
    one = min(found, key=lambda each: each.drift)
    return [
        f"{best.words} moves other text by {best.drift:.2f} nats per token; {one.words}, which gains "
        f"{evidence(split, one.scores, tuned).gain} {split.unit}, by {one.drift:.2f}: if the model is to write "
        "other text too, name what to try in calibration.corrections"
    ]


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


def choose(
    split: CalibrationSplit, tuned: Scores, order: Sequence[Rival], *, folds: int
) -> tuple[Rival | None, Gain]:
    """Return the candidate to use, None for the tuned model, and the held-out gain of choosing so.

    Args:
        order: the candidates, from cheap and simple to dear.
        folds: for each of them the choice is made on the others.
    """
    eligible = _helping(split, tuned, order)
    numbers, fold = example_folds(split.example, folds)
    unseen = tuned.fitted.clone()
    for number in range(folds if eligible else 0):
        others, mine = numbers[fold != number], torch.isin(split.example, numbers[fold == number])
        unseen[mine] = _pick(split, tuned, eligible, others).scores.fitted[mine]
    gain = evidence(split, Scores(unseen, tuned.labels, None), tuned).gain
    return (_pick(split, tuned, eligible, None) if eligible else None), gain


def _helping(split: CalibrationSplit, tuned: Scores, order: Sequence[Rival]) -> list[Rival]:
    """Return those that surely help, by intervals that hold for all of them at once."""
    level = joint_level([one.scores.fitted for one in order], tuned.fitted, split.example) if order else 0.0
    return [one for one in order if _surely_helps(split, tuned, one, level)]


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
