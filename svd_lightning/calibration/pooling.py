"""Strengths of single tasks, drawn towards what all tasks say together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.calibration.candidates import Recipe
from svd_lightning.calibration.cross_fit import example_folds, possible_labels
from svd_lightning.objective import CalibrationTokens, Priced, TokenObjective, objective
from svd_lightning.records import Intervals
from svd_lightning.strength import Estimate, LineSearch, StrengthEstimator
from svd_lightning.strength.intervals import sandwich

PRIORS = (math.inf, 1000.0, 100.0, 10.0, 1.0)
"""How many examples the pooled strengths may weigh: from all (tasks do not differ) to next to nothing."""


class Pool:
    """The strengths of all tasks together, and what they make of one task's.

    Args:
        objective: of the examples of all tasks.
        estimator: found the strengths, and finds those of a task.
        strengths: c, float64 [k].
    """

    def __init__(self, objective: TokenObjective, estimator: StrengthEstimator, strengths: Tensor) -> None:
        self._objective, self._estimator, self.strengths = objective, estimator, strengths
        self._curvature = objective.evaluate(strengths).hessian
        self._known = objective.examples

    def known(self, examples: Tensor) -> Tensor:
        """Return those of the examples (int64 numbers) that count in the objective."""
        return examples[torch.isin(examples, self._known)]

    def fit(
        self,
        examples: Tensor,
        *,
        prior: float,
        start: Tensor | None = None,
        among: TokenObjective | None = None,
    ) -> Estimate:
        """Return the strengths of the task with these examples; exactly the pooled ones where it has none.

        A line search minimises K_t(μ) + ½ · m/E_t · (μ − c)ᵀ H (μ − c): the task's objective with the pool as m
        examples more. K_t is the mean NLL of the task's tokens, E_t its number of examples, c the pooled strengths
        and H the pooled curvature there. Without examples of the task the minimum is c, with ever more of them it
        tends to the task's own; to second order (K_t as curved as the pool) it lies at

            (E_t μ̂_t + m c) / (E_t + m),

        which is Bühlmann's credibility formula, and the posterior mode where tasks scatter about c with covariance
        (m H)⁻¹ and H is the curvature of an example. H makes m a number of examples whatever the lengths of the
        directions. Weights on features are held by c like all the others.

        The closed forms minimise nothing: what they find on the task's examples is averaged with the pooled
        strengths by that formula.

        Args:
            examples: numbers of the task's examples, int64.
            prior: m, in examples; infinite for the pooled strengths.
            start: where a search begins, float64 [k].
            among: a part of the objective that has these examples, and so costs less than all of it.

        Source: derived here; weight: Bühlmann, "Experience rating and credibility", ASTIN Bulletin 4 (1967).
        """
        examples = self.known(examples)
        if math.isinf(prior) or not len(examples):
            return Estimate(tuple(self.strengths.tolist()))
        own = (among or self._objective).counting(examples, start=self.strengths)
        if isinstance(self._estimator, LineSearch):
            start = self.strengths if start is None else start
            price = prior / len(own.examples) * self._curvature
            return self._estimator(Priced(own, price, centre=self.strengths, start=start))
        found = self._estimator(own)
        share = credibility(len(examples), prior)
        mixed = torch.lerp(self.strengths, torch.tensor(found.strengths, dtype=torch.float64), share)
        return Estimate(tuple(mixed.tolist()), found.skipped, found.warning)

    def intervals(
        self, examples: Tensor, found: Estimate, among: TokenObjective | None = None
    ) -> Intervals | None:
        """Return the intervals at a task's own minimum (`sandwich`), the pool taken as known; else None.

        Args:
            examples: numbers of the task's examples, int64.
            found: what `fit` made of them.
            among: as of `fit`.
        """
        if found.curvature is None:
            return None
        own = (among or self._objective).counting(self.known(examples), start=self.strengths)
        return sandwich(own, found, found.curvature)


def credibility(examples: int, prior: float) -> float:
    """Return E / (E + m), the weight of a task's own examples.

    >>> credibility(30, 10.0)
    0.75
    """
    return 0.0 if math.isinf(prior) else examples / (examples + prior)


@dataclass(frozen=True)
class TaskFit:
    """What a recipe makes of the tasks."""

    prior: float
    """m, in examples."""
    estimates: dict[str, Estimate]
    """By task."""
    intervals: dict[str, Intervals | None]
    """Of the strengths, by task; of own strengths with the pool taken as known, and only of a line search."""
    held_out: Tensor
    """Cross-fitted log-probability of every label, float64 [N]; pooled strengths for tokens of no task."""


def fit_tasks(
    tokens: CalibrationTokens,
    recipe: Recipe,
    tasks: Mapping[str, Tensor],
    *,
    pooled: Sequence[float],
    intervals: Intervals | None = None,
    penalty: float,
    folds: int,
) -> TaskFit:
    """Fit the strengths of every task, the weight m of the pool being the one with the best held-out NLL.

    The m of each fold's held-out tokens is chosen by the other folds' held-out tokens, the m in use by all.

    Args:
        tokens: the calibration tokens.
        recipe: rules and estimator.
        tasks: int64 numbers of each task's examples.
        pooled: the estimator's strengths on all examples.
        intervals: of these.
        penalty: λ of decoding.
        folds: of the cross-fit; examples are never split.
    """
    problem = objective(tokens, recipe.rules, penalty=penalty)
    whole = Pool(problem, recipe.estimator, torch.tensor(pooled, dtype=torch.float64))
    numbers, fold = example_folds(tokens.example, folds)
    possible = possible_labels(tokens, penalty)
    example = tokens.example[possible]
    parts = {task: problem.restricted(mine) for task, mine in tasks.items() if len(whole.known(mine))}

    def held_out(number: int) -> Tensor:
        """Return the log-probability of the fold's labels for each m, [P, N']; 0 elsewhere."""
        seen = numbers[fold != number]
        among = problem.counting(seen, start=whole.strengths)
        pool = Pool(among, recipe.estimator, torch.tensor(recipe.estimator(among).strengths, dtype=torch.float64))
        found = problem.label_log_probs(pool.strengths).expand(len(PRIORS), -1).clone()
        own = tokens.map(
            lambda task: _by_prior(parts[task], pool, tasks[task][torch.isin(tasks[task], seen)]), parts
        )
        for task, log_probs in zip(parts, own, strict=True):
            found[:, torch.isin(example, tasks[task])] = log_probs
        return found.masked_fill(torch.isin(example, seen), 0.0)

    by_fold = torch.stack(tokens.map(held_out, range(folds)))  # [F, P, N']
    nll = -by_fold.sum(dim=-1)
    chosen = [int((nll.sum(dim=0) - own).argmin()) for own in nll]
    cross = torch.full((tokens.num_tokens,), -math.inf, dtype=torch.float64)
    cross[possible] = torch.stack([found[place] for found, place in zip(by_fold, chosen, strict=True)]).sum(dim=0)
    prior = PRIORS[int(nll.sum(dim=0).argmin())]
    own = tokens.map(lambda task: whole.fit(tasks[task], prior=prior, among=parts.get(task)), tasks)
    estimates = dict(zip(tasks, own, strict=True))
    by_name = {
        task: intervals
        if found.strengths == tuple(pooled)
        else whole.intervals(tasks[task], found, parts.get(task))
        for task, found in estimates.items()
    }
    return TaskFit(prior, estimates, by_name, cross)


def _by_prior(part: TokenObjective, pool: Pool, examples: Tensor) -> Tensor:
    """Return the log-probability of a task's labels at its strengths for each m by these examples, [P, N']."""
    rows, strengths = [], pool.strengths
    for prior in PRIORS:
        found = pool.fit(examples, prior=prior, start=strengths, among=part)
        strengths = torch.tensor(found.strengths, dtype=torch.float64)
        rows.append(part.label_log_probs(strengths))
    return torch.stack(rows)
