"""The choice among all that a calibration has fitted: the cheapest candidate that does as well as the best."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.calibration.candidates import Candidate, evidence
from svd_lightning.calibration.corrections import FittedCorrection
from svd_lightning.calibration.describe import by_task
from svd_lightning.calibration.split import CalibrationSplit, Scores, example_folds
from svd_lightning.calibration.verdict import AS_IT_IS, Evidence, SwitchedOff, in_use, switched_off
from svd_lightning.metrics import Gain, mc1
from svd_lightning.records import CalibrationRecord, CorrectionRecord, UsedRecord

_TWO_ERRORS = 2 * 1.96
"""Standard errors that a 95 % interval spans."""


Check = Callable[[CalibrationRecord], CalibrationRecord]
"""Looks at what a record uses: the same record, perhaps with more in it, or one that uses the tuned model."""


@dataclass(frozen=True)
class Rival:
    """A candidate for use, whatever its kind."""

    name: str
    scores: Scores
    """Held out."""
    over_tuned: Evidence


@dataclass(frozen=True)
class Chosen:
    """A correction that is to be used."""

    fitted: FittedCorrection
    gain: Gain
    """Held out, over the tuned model, with the choice itself made on other folds."""


def decided(
    record: CalibrationRecord,
    split: CalibrationSplit,
    tuned: Scores,
    corrections: Sequence[FittedCorrection],
    *,
    control: Candidate,
    steering: Candidate | None,
    folds: int,
    check: Check,
) -> CalibrationRecord:
    """Return the record with the best candidate that a check lets pass in use, and why others are not.

    Args:
        record: with the verdict on steering alone.
        control, steering, folds: as `choose` has them.
        check: refuses what is not to be used.
    """
    rivals = rivals_of(split, tuned, corrections)
    record = {**record, "corrections": correction_records(corrections, rivals)}
    refused: dict[str | None, CalibrationRecord] = {}
    while True:
        found = choose(
            split, tuned, corrections, rivals, control=control, steering=steering, refused=refused, folds=folds
        )
        free = found if record["guard"] else None
        now = record if free is None else corrected(record, split, tuned, free, rivals[free.fitted.name])
        wanted = in_use(now)
        checked = refused.get(wanted) or check(now)
        if wanted is None or wanted in refused or in_use(checked) == wanted:
            others = [each["message"].removesuffix(AS_IT_IS) for name, each in refused.items() if name != wanted]
            return {**checked, "advice": [*checked.get("advice", []), *others]}
        refused[wanted] = checked


def scores_of(split: CalibrationSplit, fitted: FittedCorrection) -> Scores:
    """Return the held-out scores of a correction."""
    if split.questions is None or fitted.options is None:
        return Scores(fitted.labels, fitted.labels, None)
    choices = split.questions.choices
    first = mc1(choices.options, fitted.options)
    return Scores(choices.log_probs(fitted.options) if split.by_choice else fitted.labels, fitted.labels, first)


def rivals_of(split: CalibrationSplit, tuned: Scores, corrections: Sequence[FittedCorrection]) -> dict[str, Rival]:
    """Return the corrections as candidates, by name, the simplest first."""
    found = {}
    for one in corrections:
        scores = scores_of(split, one)
        found[one.name] = Rival(one.name, scores, evidence(split, scores, tuned))
    return found


def choose(
    split: CalibrationSplit,
    tuned: Scores,
    corrections: Sequence[FittedCorrection],
    rivals: dict[str, Rival],
    *,
    control: Candidate,
    steering: Candidate | None,
    refused: Collection[str | None] = (),
    folds: int,
) -> Chosen | None:
    """Return the correction to use; None where the control, the steering or the tuned model serves as well.

    Candidates are those whose held-out gain over the tuned model is sure and that surely harm nothing. Among them
    the first is taken, in the order temperature, label bias, calibrated head, steering (from cheap and simple to
    dear), whose gain lies within one standard error of the best. The gain that is reported is not the winner's
    luck: for each fold the choice is made on the other folds. If that gain is not sure, no correction is used.

    Args:
        corrections, rivals: what was fitted, and the same as candidates.
        control: sharpening alone.
        steering: the configured recipe, if the verdict on it is to steer.
        refused: names of those that a check has refused, as `in_use` gives them.
        folds: as the cross-fit has them.
    """
    order = [Rival("control", control.held_out, control.over_tuned), *rivals.values()]
    if steering is not None:
        order.append(Rival("steer", steering.held_out, steering.over_tuned))
    eligible = [one for one in order if one.over_tuned.helps and one.name not in refused]
    names = {one.name: one for one in corrections}
    best = _pick(split, tuned, eligible, None)
    if best is None or best.name not in names:
        return None
    numbers, fold = example_folds(split.example, folds)
    unseen = torch.zeros_like(tuned.fitted)
    for number in range(folds):
        others, mine = numbers[fold != number], torch.isin(split.example, numbers[fold == number])
        picked = _pick(split, tuned, eligible, others)
        unseen[mine] = (tuned if picked is None else picked.scores).fitted[mine]
    gain = evidence(split, Scores(unseen, tuned.labels, None), tuned).gain
    return Chosen(names[best.name], gain) if gain.sure else None


def _pick(split: CalibrationSplit, tuned: Scores, eligible: Sequence[Rival], among: Tensor | None) -> Rival | None:
    """Return the first candidate within one standard error of the best, by some examples (None for all)."""
    gains = [evidence(split, one.scores, tuned, among=among).gain.mean for one in eligible]
    if not gains:
        return None
    best = eligible[gains.index(max(gains))]
    for one in eligible:
        behind = evidence(split, best.scores, one.scores, among=among).gain
        if behind.mean <= (behind.high - behind.low) / _TWO_ERRORS:
            return one
    return best


def correction_records(
    corrections: Sequence[FittedCorrection], rivals: dict[str, Rival]
) -> list[CorrectionRecord]:
    """Return what the record says of every correction that was tried."""
    return [
        {
            "name": one.name,
            "tokens": len(one.correction.tokens),
            "settings": dict(one.settings),
            "nll": one.nll,
            "accuracy": one.accuracy,
            "gain": rivals[one.name].over_tuned.gain.plain(),
            "gain_likelihood": rivals[one.name].over_tuned.likelihood.plain(),
            "gain_mc1": rivals[one.name].over_tuned.plain().get("gain_mc1"),
        }
        for one in corrections
    ]


def corrected(
    record: CalibrationRecord, split: CalibrationSplit, tuned: Scores, chosen: Chosen, rival: Rival
) -> CalibrationRecord:
    """Return the record with a correction in use, but for the tasks that it surely harms.

    Args:
        record: with the verdict on steering.
        rival: the chosen correction as a candidate.
    """
    words, gain, unit = chosen.fitted.in_words, chosen.gain, "question" if split.by_choice else "token"
    message = (
        f"{words} helps most: its held-out gain over the tuned model is {gain.mean:+.4f} [{gain.low:+.4f}, "
        f"{gain.high:+.4f}] nats per {unit}, and it costs nothing at decoding ({split.tokens.num_examples} "
        "calibration examples)"
    )
    off = switched_off(record["rules"], message)
    used: UsedRecord = {**off["used"], "gain": gain.plain(), "correction": chosen.fitted.name}
    mine: SwitchedOff = {"verdict": "correct", "message": message, "used": used}
    groups = by_task(split.tokens.example, split.tokens.tasks)
    tasks = []
    for task in record["tasks"]:
        harm = evidence(split, rival.scores, tuned, among=groups[task["task"]]).harm
        why = f"{words} is not used: in this task it surely {harm}{AS_IT_IS}"
        found = mine if harm is None else switched_off(record["rules"], why)
        tasks.append({**task, **found, "judged_by": "pool" if harm is None else "task"})
    return {**record, **mine, "tasks": tasks}  # type: ignore[typeddict-item]
