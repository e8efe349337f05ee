"""The fit of the adapter's scale: a search over a few scales, each of which costs a forward of the tuned model."""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from svd_lightning.calibration.corrections import FittedCorrection, LabelSplit, as_collected
from svd_lightning.calibration.split import example_folds
from svd_lightning.steering import AdapterScale

STEP = 1.25
"""Ratio of neighbouring scales."""
MOST = 5
"""Steps from 1 at most, so 0.33 and 3.05 at the ends, and six forwards of a search."""


def search_scale(nll: Callable[[float], float]) -> float:
    """Return the scale with the lowest NLL: 1, or a power of 5/4 or 4/5, in the better direction while it falls.

    >>> search_scale(lambda scale: (scale - 1.6) ** 2), search_scale(lambda scale: abs(scale - 1.0))
    (1.5625, 1.0)
    """
    ratio = min(STEP, 1 / STEP, key=nll)
    best, lowest = 1.0, nll(1.0)
    for power in range(1, MOST + 1):
        if not (found := nll(ratio**power)) < lowest:
            break
        best, lowest = ratio**power, found
    return best


def fit_scale(
    tuned: LabelSplit, at: Callable[[float], LabelSplit], *, folds: int, choice: bool
) -> FittedCorrection:
    """Find the scale of the adapter, for all examples and without each fold.

    Each fold is scored at the scale that the same search finds on the other folds. A scale is computed once,
    whichever searches ask for it: nearly always all go the same way.

    Args:
        tuned: the labels under the tuned model as it is.
        at: gives them at another scale, in the same order.
        folds: how many folds the cross-fit has; examples are never split.
        choice: search by the choice among the options, where every example has some, not by the labels.
    """
    choices, example = tuned.choices, tuned.answers.example
    by_choice = tuned.fits_choice(choice)
    scores = cache(lambda scale: _Scores(tuned if scale == 1.0 else at(scale), by_choice=by_choice))
    numbers, fold_of = example_folds(example, min(folds, example.unique().numel()))

    def fold(examples: Tensor) -> Tensor:
        return fold_of[torch.searchsorted(numbers, examples)]

    def found(among: Tensor) -> float:
        return search_scale(lambda scale: scores(scale).nll(among))

    judged = fold(example if choices is None or not by_choice else choices.number)
    whole = AdapterScale(found(torch.ones_like(judged, dtype=torch.bool)))
    unseen = [scores(found(judged != one)) for one in range(int(fold_of.max()) + 1)]
    options = None
    if choices is not None:
        question = fold(choices.number[choices.options.question])
        options = _pick([one.options for one in unseen if one.options is not None], question)
    outcome = as_collected(scores(whole.scale).answers)
    return FittedCorrection(
        whole,
        {"scale": whole.scale},
        [whole] * len(unseen),  # for decoding: rows of several folds share a batch, which has one scale
        _pick([one.labels for one in unseen], fold(example)),
        options,
        outcome.nll,
        outcome.accuracy,
    )


class _Scores:
    """What the tuned model at a scale gives the labels and the options."""

    def __init__(self, split: LabelSplit, *, by_choice: bool) -> None:
        self.answers, self.labels = split.answers, split.answers.label_log_p.double()
        self.options = None if split.options is None else split.sums(split.options.label_log_p.double())
        self._judged = self.labels
        if by_choice and split.choices is not None and self.options is not None:
            self._judged = split.choices.log_probs(self.options)
        self._sound = bool(self.labels.isfinite().all() and self._judged.isfinite().all())

    def nll(self, among: Tensor) -> float:
        """Return the mean NLL of what is judged, among some (bool); infinite if the model breaks at this scale."""
        return -self._judged[among].mean().item() if self._sound else math.inf


def _pick(rows: list[Tensor], fold: Tensor) -> Tensor:
    """Return of each entry the row of its fold, [F][N] and int64 [N] → [N]."""
    return torch.stack(rows).gather(0, fold.unsqueeze(0)).squeeze(0)
