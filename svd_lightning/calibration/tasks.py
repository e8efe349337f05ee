"""A strength for each task of one adapter, with what a user should know about it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from svd_lightning.calibration.candidates import CONTROL, Candidate, Recipe
from svd_lightning.calibration.cross_fit import label_log_probs, possible_labels
from svd_lightning.calibration.pooling import TaskFit, credibility, fit_tasks
from svd_lightning.calibration.verdict import explain, in_use, judge, tuned_in_use
from svd_lightning.metrics import Gain, paired_gain
from svd_lightning.objective import CalibrationTokens, objective
from svd_lightning.steering import Steering

_ENOUGH = 10
"""Examples without which an interval of their mean is too narrow to go by."""


def by_task(example: Tensor, tasks: Mapping[int, str]) -> dict[str | None, Tensor]:
    """The int64 numbers of each task's examples, those of none last, under None.

    Args:
        example: of each token, [N].
        tasks: of each example that has one.
    """
    found: dict[str | None, list[int]] = {}
    for number in example.unique().tolist():
        found.setdefault(tasks.get(number), []).append(number)
    names = sorted(found, key=lambda task: (task is None, task))
    return {name: torch.tensor(found[name]) for name in names}


def calibrate_tasks(
    data: CalibrationTokens,
    steering: Steering,
    chosen: Recipe,
    *,
    best: Candidate,
    control: Candidate,
    verdict: str,
    guard: bool,
    folds: int,
) -> list[dict[str, Any]]:
    """The strengths of every task, shrunk towards the pooled ones, and what the guard says of each.

    A task of ten examples or more (resampling fewer says little) speaks for itself where they weigh as much as the
    pool (E ≥ m), or where steering surely harms it. Of any other the verdict on all examples holds.

    Args:
        data: the calibration tokens.
        steering: rules, features, mask and penalty.
        chosen: the recipe of the calibration.
        best, control: the chosen recipe and `CONTROL` on all examples.
        verdict: on all examples.
        guard, folds: of the calibration.

    Returns:
        One record per task, in plain numbers and strings; none where there are no tasks to tell apart.
    """
    found = by_task(data.example, data.tasks)
    tasks = {task: examples for task, examples in found.items() if task is not None}
    if not tasks or len(found) < 2:
        return []
    wanted = [(chosen, best), (CONTROL, control)][: 1 if chosen.key == CONTROL.key else 2]
    fits = data.map(
        lambda one: fit_tasks(
            data,
            one[0],
            tasks,
            pooled=one[1].strengths,
            intervals=one[1].intervals,
            penalty=steering.penalty,
            folds=folds,
        ),
        wanted,
    )
    zeros = torch.zeros(len(steering.directions), dtype=torch.float64)
    tuned = label_log_probs(data, steering.directions, zeros, penalty=steering.penalty)
    evidence = _Evidence(data, steering, chosen, fits[0], fits[-1], tuned)
    nll = _nll(data, steering, tasks, fits[0])
    return [
        {**evidence.record(task, examples, verdict=verdict, guard=guard), "nll_steered": nll[task]}
        for task, examples in tasks.items()
    ]


def _nll(
    data: CalibrationTokens, steering: Steering, tasks: Mapping[str, Tensor], fit: TaskFit
) -> dict[str, float]:
    """Mean NLL of each task's labels at its strengths; the mask only silences the steering."""
    problem = objective(data, steering.directions, penalty=0.0)

    def of_task(task: str) -> float:
        strengths = torch.tensor(fit.estimates[task].strengths, dtype=torch.float64)
        return -problem.restricted(tasks[task]).label_log_probs(strengths).mean().item()

    return dict(zip(tasks, data.map(of_task, tasks), strict=True))


@dataclass(frozen=True)
class _Evidence:
    """What is known of all tasks."""

    data: CalibrationTokens
    steering: Steering
    chosen: Recipe
    steer: TaskFit
    control: TaskFit
    tuned: Tensor
    """Log-probability of every label under the tuned model, [N]."""

    def record(self, task: str, examples: Tensor, *, verdict: str, guard: bool) -> dict[str, Any]:
        """One task."""
        mine = torch.isin(self.data.example, examples)
        gain = partial(self._gain, mine)
        over_tuned = gain(self.steer.held_out, self.tuned)
        over_control = gain(self.steer.held_out, self.control.held_out)
        control = gain(self.control.held_out, self.tuned)
        telling = self.data.example[mine & possible_labels(self.data, self.steering.penalty)].unique().numel()
        alone = telling >= _ENOUGH and (telling >= self.steer.prior or over_tuned.high < 0.0)
        if alone:
            verdict = judge(over_tuned, over_control, control, is_control=self.chosen.key == CONTROL.key)
        found, intervals = self.steer.estimates[task], self.steer.intervals[task]
        sharpened = self.control.estimates[task].strengths, self.control.intervals[task]
        used = {
            "steer": in_use(self.chosen.key[0], found.strengths, intervals, over_tuned),
            "control": in_use(CONTROL.key[0], *sharpened, control),
            "tuned": tuned_in_use(self.steering),
        }[verdict if guard else "steer"]
        return {
            "task": task,
            "tokens": int(mine.sum()),
            "examples": len(examples),
            "prior_examples": self.steer.prior,
            "weight": credibility(telling, self.steer.prior),
            "strengths": list(found.strengths),
            "intervals": intervals,
            "warning": found.warning,
            "nll_tuned": -self.data.label_log_p[mine].double().mean().item(),
            "gain_over_tuned": asdict(over_tuned),
            "gain_over_control": asdict(over_control),
            "verdict": verdict,
            "judged_by": "task" if alone else "pool",
            "message": explain(verdict, guard=guard),
            "used": used,
        }

    def _gain(self, mine: Tensor, better: Tensor, worse: Tensor) -> Gain:
        return paired_gain(better[mine], worse[mine], self.data.example[mine])
