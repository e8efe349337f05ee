"""The strengths of each task of one adapter, with what a user should know about them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.calibration.candidates import Candidate, evidence
from svd_lightning.calibration.describe import by_task
from svd_lightning.calibration.pooling import TaskFit, credibility, fit_tasks
from svd_lightning.calibration.split import CalibrationSplit, Scores
from svd_lightning.calibration.verdict import Verdict, decide, explain, used_record
from svd_lightning.objective import TokenStream, objective, prefetch
from svd_lightning.records import TaskRecord
from svd_lightning.steering import Steering

_ENOUGH = 10
"""Examples without which an interval of their mean is too narrow to go by."""


def calibrate_tasks(
    split: CalibrationSplit,
    steering: Steering,
    best: Candidate,
    control: Candidate,
    tuned: Scores,
    *,
    verdict: Verdict,
    guard: bool,
    folds: int,
) -> list[TaskRecord]:
    """Return the strengths of every task, shrunk towards the pooled ones, with a verdict on each.

    A task of ten examples or more (a bootstrap over fewer says little) gets a verdict of its own where they weigh
    as much as the pool (E ≥ m), or where steering surely harms it. Any other gets the verdict on all examples.

    Args:
        steering: rules, features, mask and penalty.
        best, control: the chosen recipe and sharpening alone, on all examples; the same where this is chosen.
        tuned: of the tuned model as it is.
        verdict: on all examples.
        guard, folds: as `calibrate` takes them.

    Returns:
        One record per task; none where there are no tasks to tell apart.
    """
    tokens = split.tokens
    groups = by_task(tokens.example, tokens.tasks)
    tasks = {task: examples for task, examples in groups.items() if task is not None}
    if not tasks or len(groups) < 2:
        return []
    wanted = [best] if best is control else [best, control]
    # a stream answers both in the same passes; for a table, one at a time takes the least memory
    together = [wanted] if isinstance(tokens, TokenStream) else [[one] for one in wanted]
    fits: list[TaskFit] = []
    for candidates in together:
        pooled = [one.as_fit(split.objective(one.recipe.rules)) for one in candidates]
        fits += fit_tasks(split.example, pooled, tasks, folds=folds)
    steered, sharpened = split.scores(
        [best.recipe.rules, control.recipe.rules], [fits[0].held_out, fits[-1].held_out]
    )
    findings = _Findings(
        split, steering, best, control, fits[0], fits[-1], steered, sharpened, tuned, verdict, guard
    )
    nll = _nll(split, steering, tasks, fits[0])
    return [findings.record(task, examples, nll[task]) for task, examples in tasks.items()]


def _nll(
    split: CalibrationSplit, steering: Steering, tasks: Mapping[str, Tensor], fit: TaskFit
) -> dict[str, float]:
    """Return the mean NLL of each task's labels at its strengths; the mask only silences the steering."""
    problem = objective(split.tokens, steering.directions, penalty=0.0)
    parts = [problem.restricted(mine) for mine in tasks.values()]
    points = [torch.tensor(fit.estimates[task].strengths, dtype=torch.float64) for task in tasks]
    prefetch(parts, points)
    return {
        task: -part.label_log_probs(point).mean().item()
        for task, part, point in zip(tasks, parts, points, strict=True)
    }


@dataclass(frozen=True)
class _Findings:
    """What the records of all tasks are made from."""

    split: CalibrationSplit
    steering: Steering
    best: Candidate
    control: Candidate
    steer: TaskFit
    sharpen: TaskFit
    steered: Scores
    sharpened: Scores
    """Held out, with each task's strengths."""
    tuned: Scores
    verdict: Verdict
    """On all examples."""
    guard: bool

    def record(self, task: str, examples: Tensor, nll_steered: float) -> TaskRecord:
        """Return the record of one task."""
        tokens = self.split.tokens
        mine = torch.isin(tokens.example, examples)
        over_tuned = evidence(self.split, self.steered, self.tuned, among=examples)
        over_control = evidence(self.split, self.steered, self.sharpened, among=examples).gain
        control = evidence(self.split, self.sharpened, self.tuned, among=examples)
        harm = over_tuned.gain.surely_lost or over_tuned.harm is not None
        alone = len(examples) >= _ENOUGH and (len(examples) >= self.steer.prior or harm)
        verdict = self.verdict
        if alone:
            verdict = decide(over_tuned, over_control, control, is_control=self.best is self.control)
        estimate, intervals = self.steer.estimates[task], self.steer.intervals[task]
        temperature, bounds = self.sharpen.estimates[task].strengths, self.sharpen.intervals[task]
        found = (estimate.strengths, intervals, over_tuned.gain, self.steer.fold_strengths[task])
        sharpened = (temperature, bounds, control.gain, self.sharpen.fold_strengths[task])
        used = {
            "steer": used_record(self.best.recipe.rules, *found),
            "control": used_record(self.control.recipe.rules, *sharpened),
            "tuned": used_record(self.steering.directions),
        }
        return {
            "task": task,
            "tokens": int(mine.sum()),
            "examples": len(examples),
            "prior_examples": self.steer.prior,
            "weight": credibility(len(examples), self.steer.prior),
            "strengths": list(estimate.strengths),
            "intervals": intervals,
            "warning": estimate.warning,
            "nll_tuned": -tokens.label_log_p[mine].double().mean().item(),
            **over_tuned.plain(),
            "gain_over_control": over_control.plain(),
            "verdict": verdict,
            "judged_by": "task" if alone else "pool",
            "message": explain(
                verdict,
                over_tuned,
                over_control,
                control,
                temperature=temperature[0],
                guard=self.guard,
                examples=len(examples),
            ),
            "used": used[verdict if self.guard else "steer"],
            "nll_steered": nll_steered,
        }
