"""The calibration procedure: from calibration tokens to the strengths in use, and the record of all results."""

from collections.abc import Mapping, Sequence

import torch

from svd_lightning.calibration.advice import better_recipe, harmful_adapter, too_small
from svd_lightning.calibration.candidates import Candidate, evidence, fit_all
from svd_lightning.calibration.choose import Check, Measure, decided
from svd_lightning.calibration.corrections import FittedCorrection
from svd_lightning.calibration.describe import figures
from svd_lightning.calibration.masks import compare_masks, recommend
from svd_lightning.calibration.recipes import CONTROL, Recipe, RecipeKey, recipes
from svd_lightning.calibration.split import CalibrationSplit, Scores
from svd_lightning.calibration.tasks import calibrate_tasks
from svd_lightning.calibration.verdict import decide, explain, used_record
from svd_lightning.errors import InputError
from svd_lightning.objective import CalibrationTokens, QuestionTokens, TokenTable
from svd_lightning.records import CalibrationRecord, MaskRecord, QuestionsRecord
from svd_lightning.steering import Steering
from svd_lightning.strength import StrengthEstimator


def calibrate(
    tokens: CalibrationTokens,
    steering: Steering,
    estimator: StrengthEstimator,
    *,
    questions: QuestionTokens | None = None,
    corrections: Sequence[FittedCorrection] = (),
    measure: Measure = lambda record: record,
    check: Check = lambda record: record,
    any_recipe: bool = False,
    choice: bool = True,
    guard: bool = True,
    folds: int = 4,
    alphas: Sequence[float] = (),
    others: bool = True,
) -> CalibrationRecord:
    """Solve for the strengths, put intervals on their gain, and describe the result in plain numbers.

    Args:
        tokens: the calibration tokens. With a mask a table, built at the smallest α in question with the
            steering's rules and the built-in ones; without one a stream. Of questions with options, those of the
            best answers.
        steering: rules, features, mask and penalty; its strengths are ignored.
        estimator: chooses the strengths.
        questions: the tokens in which the options differ, where there are questions with options: for the choice,
            and for MC1, which no steering in use may surely lower.
        corrections: fitted to the same tokens (`fit_corrections`), with as many folds; with the guard one is used
            where a steering gains no more.
        measure: adds the drift of every candidate to a record, before one is chosen.
        check: looks at the record before it is final. What it switches off is left out, and the rest decided anew.
        any_recipe: with the guard, use whichever rules and estimator do best, not the configured ones alone.
        choice: fit the choice among the options, if every example has some, rather than the tokens' likelihood.
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
    by_choice = (
        choice and questions is not None and bool(torch.isin(tokens.example, questions.choices.number).all())
    )
    whole = CalibrationSplit(tokens, questions, by_choice)
    split, rules = whole.under(steering), steering.directions
    folds = min(folds, tokens.num_examples)
    if folds < 2:
        raise InputError(
            f"data.calibration: expected at least 2 examples (gains get an interval), got {tokens.num_examples}"
        )
    chosen = Recipe(rules, estimator)
    tuned = split.tuned(rules)
    wanted = recipes(steering, estimator, others=others)
    found = fit_all(split, wanted, tuned, chosen=chosen, penalty=steering.penalty, folds=folds)
    masks = compare_masks(whole, rules, alphas, folds=folds) if isinstance(tokens, TokenTable) else []
    record = _record(split, steering, found, tuned, masks, chosen=chosen, guard=guard, folds=folds)
    return decided(
        record,
        split,
        tuned,
        corrections,
        found,
        chosen=chosen.key,
        any_recipe=any_recipe,
        folds=folds,
        measure=measure,
        check=check,
    )


def _record(
    split: CalibrationSplit,
    steering: Steering,
    found: Mapping[RecipeKey, Candidate],
    tuned: Scores,
    masks: list[MaskRecord],
    *,
    chosen: Recipe,
    guard: bool,
    folds: int,
) -> CalibrationRecord:
    """Return the record of the steered candidates, before corrections and checks."""
    best, control, examples = found[chosen.key], found[CONTROL.key], split.tokens.num_examples
    over_control = evidence(split, best.held_out, control.held_out).gain
    gains = best.over_tuned, over_control, control.over_tuned
    verdict = decide(*gains, is_control=best is control)
    used = {"steer": best.used(), "control": control.used(), "tuned": used_record(steering.directions)}
    tasks = calibrate_tasks(split, steering, best, control, tuned, verdict=verdict, guard=guard, folds=folds)
    advice = better_recipe(split, found, tuned, steering, chosen=chosen.key, verdict=verdict)
    return {
        "estimator": chosen.key[1],
        "warning": best.estimate.warning,
        **figures(split.tokens, steering.with_strengths(best.estimate.strengths), best.outcome),
        "intervals": best.intervals,
        **best.over_tuned.plain(),
        "gain_over_control": over_control.plain(),
        "questions": _about(split, tuned, best.held_out, control.held_out),
        "verdict": verdict,
        "message": explain(
            verdict, *gains, temperature=control.estimate.strengths[0], guard=guard, examples=examples
        ),
        "advice": [*too_small(examples), *harmful_adapter(split.tokens), *advice],
        "guard": guard,
        "used": used[verdict if guard else "steer"],
        "tasks": tasks,
        "candidates": [candidate.plain() for candidate in found.values()],
        "sweep": masks,
        "recommended": recommend(masks),
    }


def _about(split: CalibrationSplit, tuned: Scores, steered: Scores, control: Scores) -> QuestionsRecord | None:
    """Return how the questions are answered, held out; None where there are none."""
    if split.questions is None or tuned.mc1 is None or steered.mc1 is None or control.mc1 is None:
        return None
    return {
        "count": len(split.questions.choices.number),
        "by_choice": split.by_choice,
        "chance": split.questions.choices.chance,
        "mc1_tuned": tuned.mc1.mean().item(),
        "mc1_steered": steered.mc1.mean().item(),
        "mc1_control": control.mc1.mean().item(),
    }
