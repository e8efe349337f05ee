"""Strengths of single tasks, drawn towards what all tasks say together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svd_lightning.calibration.cross_fit import Fit, fit_each
from svd_lightning.calibration.split import Part, example_folds
from svd_lightning.objective import Objective, Priced, TokenObjective, prefetch
from svd_lightning.records import Intervals
from svd_lightning.strength import Estimate, LineSearch, estimate_all
from svd_lightning.strength.intervals import sandwich

PRIORS = (math.inf, 1000.0, 100.0, 10.0, 1.0)
"""How many examples the pooled strengths may weigh: from all (tasks do not differ) to next to nothing."""


class Pool:
    """The strengths of all tasks together.

    Args:
        pooled: the strengths c, and the objective of the examples of all tasks on which they were found.
    """

    def __init__(self, pooled: Fit) -> None:
        self.estimator, self.objective, self.strengths = pooled.estimator, pooled.objective, pooled.point
        values, vectors = torch.linalg.eigh(pooled.objective.evaluate(self.strengths).hessian)
        # a minimum on the border of a search that is not convex may curve down
        self.curvature = (vectors * values.clamp_min(0.0)) @ vectors.T
        self._examples = pooled.objective.examples

    def counted(self, examples: Tensor) -> Tensor:
        """Return those of the examples (int64 numbers) that count in the objective."""
        return examples[torch.isin(examples, self._examples)]


class Member:
    """A task within a pool.

    Args:
        pool: of all tasks.
        examples: numbers of the task's examples, int64.
        among: a part of the pool's objective that has these examples, and so costs less than all of it.
    """

    def __init__(self, pool: Pool, examples: Tensor, *, among: TokenObjective | None = None) -> None:
        self.pool, self.examples = pool, pool.counted(examples)
        self.own = (among or pool.objective).counting(self.examples, start=pool.strengths)

    def problem(self, prior: float, *, start: Tensor) -> Objective:
        """Return the objective that the estimator is given for the task's strengths.

        A line search minimises K_t(μ) + ½ · m/E_t · (μ − c)ᵀ H (μ − c): the task's objective with the pool as m
        examples more. K_t is the mean NLL of the task's tokens, E_t its number of examples, c the pooled strengths
        and H the pooled curvature there. Without examples of the task the minimum is c, with ever more of them it
        tends to the task's own; to second order (K_t as curved as the pool) it lies at

            (E_t μ̂_t + m c) / (E_t + m),

        which is Bühlmann's credibility formula, and the posterior mode where tasks scatter about c with covariance
        (m H)⁻¹ and H is the curvature of an example. H makes m a number of examples whatever the lengths of the
        directions. Weights on features are held by c like all the others.

        Source: derived here; weight: Bühlmann, "Experience rating and credibility", ASTIN Bulletin 4 (1967).
        """
        if not isinstance(self.pool.estimator, LineSearch):
            return self.own
        price = prior / len(self.examples) * self.pool.curvature
        return Priced(self.own, price, centre=self.pool.strengths, start=start)

    def mixed(self, found: Estimate, prior: float) -> Estimate:
        """Average what a closed form found on the task's examples with the pooled strengths, as `problem` says.

        A line search has minimised with the pool already, and its estimate stays as it is.
        """
        if isinstance(self.pool.estimator, LineSearch):
            return found
        own = torch.tensor(found.strengths, dtype=torch.float64)
        strengths = torch.lerp(self.pool.strengths, own, credibility(len(self.examples), prior))
        return Estimate(tuple(strengths.tolist()), found.skipped, found.warning)

    def intervals(self, found: Estimate) -> Intervals | None:
        """Return the intervals at the task's own minimum (`sandwich`), the pool taken as known; else None."""
        return None if found.curvature is None else sandwich(self.own, found, found.curvature)


def fit_members(
    members: Sequence[Member], *, prior: float, starts: Sequence[Tensor] | None = None
) -> list[Estimate]:
    """Return the strengths of each task; exactly the pooled ones where it has no examples.

    Args:
        members: the tasks.
        prior: m, in examples; infinite for the pooled strengths.
        starts: where the searches begin, float64 [k]; None for the pooled strengths.
    """
    starts = starts or [one.pool.strengths for one in members]
    estimates = [Estimate(tuple(one.pool.strengths.tolist())) for one in members]
    alone = [n for n, one in enumerate(members) if len(one.examples) and not math.isinf(prior)]
    problems = [(members[n].pool.estimator, members[n].problem(prior, start=starts[n])) for n in alone]
    for n, estimate in zip(alone, estimate_all(problems), strict=True):
        estimates[n] = members[n].mixed(estimate, prior)
    return estimates


def credibility(examples: int, prior: float) -> float:
    """Return E / (E + m), the weight of a task's own examples.

    >>> credibility(30, 10.0)
    0.75
    """
    return 0.0 if math.isinf(prior) else examples / (examples + prior)


@dataclass(frozen=True)
class TaskFit:
    """The strengths of every task that a recipe found."""

    prior: float
    """m, in examples."""
    estimates: dict[str, Estimate]
    """By task."""
    intervals: dict[str, Intervals | None]
    """Of the strengths, by task; a task's own have one only from a line search, which takes the pool as known."""
    held_out: list[Part]
    """Examples of each task and fold with strengths from other folds; pooled ones for examples of no task."""
    fold_strengths: dict[str, list[list[float]]]
    """By task and fold, found without the fold, [F][k]."""


def fit_tasks(example: Tensor, fits: Sequence[Fit], tasks: Mapping[str, Tensor], *, folds: int) -> list[TaskFit]:
    """Fit the strengths of every task, the weight m of the pool being the one with the best held-out NLL.

    The m of each fold's held-out tokens is chosen by the other folds' held-out tokens, the m in use by all.

    Args:
        example: of each thing that is fitted, int64 [U].
        fits: what estimators found on all examples: the pools.
        tasks: int64 numbers of each task's examples.
        folds: how many folds the cross-fit has; examples are never split.
    """
    prefetch([fit.objective for fit in fits], [fit.point for fit in fits])
    pools = [Pool(fit) for fit in fits]
    parts = [
        {task: pool.objective.restricted(mine) for task, mine in tasks.items() if len(pool.counted(mine))}
        for pool in pools
    ]
    numbers, fold = example_folds(example, folds)
    seen = [numbers[fold != number] for number in range(folds)]
    by_fold, strengths = _held_out(pools, parts, tasks, seen, example)  # [R, F, P, U]
    return [
        _task_fit(fit, pool, part, tasks, held_out, strengths[n * folds : (n + 1) * folds])
        for n, (fit, pool, part, held_out) in enumerate(zip(fits, pools, parts, by_fold, strict=True))
    ]


def _held_out(
    pools: Sequence[Pool],
    parts: Sequence[Mapping[str, TokenObjective]],
    tasks: Mapping[str, Tensor],
    seen: Sequence[Tensor],
    example: Tensor,
) -> tuple[Tensor, list[list[list[Part]]]]:
    """Return the log-probability of each fold's labels for each m, [R, F, P, U], 0 elsewhere; and the strengths.

    The strengths of a pool's fold are those of each m: of its examples of no task, then of each task.

    Args:
        pools: R of them, on all examples.
        parts: for each pool the objective of each task that has examples which count.
        tasks: numbers of each task's examples.
        seen: the examples that each fold may see.
        example: of each thing that is fitted, [U].
    """
    wanted = [
        (pool.estimator, pool.objective.counting(each, start=pool.strengths)) for pool in pools for each in seen
    ]
    inner = [Pool(fit) for fit in fit_each(wanted)]
    found = torch.stack([one.objective.label_log_probs(one.strengths).expand(len(PRIORS), -1) for one in inner])
    held = [example[~torch.isin(example, seen[row % len(seen)])].unique() for row in range(len(inner))]
    of_tasks = torch.cat(list(tasks.values()))
    rest = [Part(mine[~torch.isin(mine, of_tasks)], one.strengths) for mine, one in zip(held, inner, strict=True)]
    used = [[[part] for _ in PRIORS] for part in rest]
    members, places = [], []
    for row, one in enumerate(inner):
        for task, part in parts[row // len(seen)].items():
            mine = tasks[task]
            members.append(Member(one, mine[torch.isin(mine, seen[row % len(seen)])], among=part))
            places.append((row, torch.isin(example, mine), part, held[row][torch.isin(held[row], mine)]))
    strengths = [one.pool.strengths for one in members]
    for column, prior in enumerate(PRIORS):
        estimates = fit_members(members, prior=prior, starts=strengths)
        strengths = [torch.tensor(one.strengths, dtype=torch.float64) for one in estimates]
        prefetch([part for _, _, part, _ in places], strengths)
        for (row, mine, part, examples), at in zip(places, strengths, strict=True):
            found[row, column, mine] = part.label_log_probs(at)
            used[row][column].append(Part(examples, at))
    for row in range(len(inner)):
        found[row].masked_fill_(torch.isin(example, seen[row % len(seen)]), 0.0)
    return found.view(len(pools), len(seen), *found.shape[1:]), used


def _task_fit(
    fit: Fit,
    pool: Pool,
    parts: Mapping[str, TokenObjective],
    tasks: Mapping[str, Tensor],
    held_out: Tensor,
    strengths: Sequence[Sequence[list[Part]]],
) -> TaskFit:
    """Choose m by the held-out log-probabilities [F, P, U], and fit the tasks with it."""
    nll = -held_out.sum(dim=-1)
    chosen = [int((nll.sum(dim=0) - own).argmin()) for own in nll]
    cross = [part for fold, place in zip(strengths, chosen, strict=True) for part in fold[place]]
    by_fold: dict[str, list[list[float]]] = {task: [] for task in tasks}
    for fold, place in zip(strengths, chosen, strict=True):
        rest, *own = fold[place]
        found_by = dict(zip(parts, own, strict=True))
        for task, each in by_fold.items():
            each.append(found_by.get(task, rest).strengths.tolist())
    prior = PRIORS[int(nll.sum(dim=0).argmin())]
    members = [Member(pool, mine, among=parts.get(task)) for task, mine in tasks.items()]
    estimates = fit_members(members, prior=prior)
    bounds = [
        fit.intervals if found.strengths == fit.estimate.strengths else member.intervals(found)
        for member, found in zip(members, estimates, strict=True)
    ]
    of_tasks, intervals = dict(zip(tasks, estimates, strict=True)), dict(zip(tasks, bounds, strict=True))
    return TaskFit(prior, of_tasks, intervals, cross, by_fold)
