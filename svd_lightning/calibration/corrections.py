"""The corrections that a calibration tries: their fit, and what each gives examples that it has not seen."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from svd_lightning.calibration.describe import Outcome
from svd_lightning.calibration.losses import ChoiceLoss, LabelLoss, Loss
from svd_lightning.calibration.prior import prior_fit
from svd_lightning.calibration.ridge import LinearFit, ridge_fit
from svd_lightning.calibration.split import example_folds
from svd_lightning.objective import Choices, LabelTokens
from svd_lightning.steering import (
    CalibratedHead,
    Correction,
    LabelBias,
    Prior,
    TokenCorrection,
    TokenCorrectionName,
    correction_name,
)

_log = logging.getLogger(__name__)
MAX_TOKENS = 20_000
"""Label tokens that are fitted at most; the others are scored."""
MAX_PRODUCTS = 2**31
"""Multiplications of a step of the search, N · F · k, beyond which states are taken by principal components."""
_LEAST_COMPONENTS = 32
_LEAST_FOLDS = 3
"""λ without one fold is chosen by fits without a second one."""

_FITS: tuple[tuple[type[TokenCorrection], Callable[..., LinearFit]], ...] = (
    (Prior, prior_fit),
    (LabelBias, ridge_fit),
    (CalibratedHead, ridge_fit),
)


@dataclass(frozen=True, eq=False)
class LabelSplit:
    """A calibration split as corrections see it."""

    answers: LabelTokens
    """The label tokens: of questions with options, those of the best answers."""
    options: LabelTokens | None = None
    """The options' own tokens; the examples are the rows of `choices`."""
    choices: Choices | None = None

    def fits_choice(self, wanted: bool) -> bool:
        """Return whether the choice is fitted: it is wanted, and every example has options."""
        if not wanted or self.options is None or self.choices is None:
            return False
        return bool(torch.isin(self.answers.example, self.choices.number).all())

    def loss(self, *, choice: bool) -> Loss:
        """Return what is fitted: the choice, if it is wanted and every example has options, or the likelihood."""
        if self.options is None or self.choices is None or not self.fits_choice(choice):
            return LabelLoss(self.answers)
        return ChoiceLoss(self.options, self.choices)

    def sums(self, log_probs: Tensor) -> Tensor:
        """Return the scores of the options, float64 [R], of log-probabilities of their own tokens, float64."""
        assert self.options is not None
        assert self.choices is not None
        row = torch.searchsorted(self.choices.row, self.options.example)
        return torch.zeros(len(self.choices.row), dtype=torch.float64).index_add_(0, row, log_probs)


@dataclass(frozen=True, eq=False)
class FittedCorrection:
    """A correction fitted to all examples, one without each fold, and the held-out scores."""

    correction: Correction
    settings: Mapping[str, float]
    """What was chosen beside its weights, by name."""
    by_fold: Sequence[Correction]
    labels: Tensor
    """Log-probability of each label, by the correction that was fitted without its fold, float64 [N]."""
    options: Tensor | None
    """The same for each option: the sum over its own tokens, float64 [R]."""
    nll: float
    """Mean NLL of the labels in nats, by the correction fitted to all of them."""
    accuracy: float
    """Share of the labels that then rank first."""

    @property
    def name(self) -> str:
        """The correction's name."""
        return correction_name(self.correction)

    @property
    def in_words(self) -> str:
        """What a message calls it."""
        return f"the {self.correction.words}"


def fit_corrections(
    split: LabelSplit,
    *,
    folds: int,
    choice: bool = True,
    names: Sequence[TokenCorrectionName] = get_args(TokenCorrectionName),
) -> list[FittedCorrection]:
    """Fit the corrections to the labels of a split; what cannot be fitted is left out, with a word in the log.

    Args:
        split: the labelled tokens.
        folds: how many folds the cross-fit has; examples are never split.
        choice: fit the choice among the options, if every example has some, rather than the tokens' likelihood.
        names: of those to fit.
    """
    fits, tokens = [one for one in _FITS if one[0].__name__ in names], split.answers
    if not fits:
        return []
    folds = min(folds, tokens.example.unique().numel())
    if not len(tokens.tokens):
        _log.warning("corrections are not tried: no token is the label twice in the calibration split")
        return []
    if _is_one_answer(tokens):
        _log.warning(
            "corrections are not tried: every answer in the calibration split is the same, so nothing tells where "
            "another one is right"
        )
        return []
    if folds < _LEAST_FOLDS:
        _log.warning("corrections are not tried: they need %s folds or more, got %s", _LEAST_FOLDS, folds)
        return []
    if not all(one.states.isfinite().all() for one in (tokens, split.options) if one is not None):
        _log.warning("%s is not tried: the tuned model's hidden states hold NaN or infinity", CalibratedHead.words)
        fits = [one for one in fits if not one[0].reads_states]
    loss = split.loss(choice=choice)
    return [_fitted(split, loss, kind, fit, *example_folds(tokens.example, folds)) for kind, fit in fits]


def _is_one_answer(tokens: LabelTokens) -> bool:
    """Return whether all examples have the same labels in the same order."""
    _, counts = tokens.example.unique(return_counts=True)
    answers = {tuple(answer.tolist()) for answer in tokens.slot.split(counts.tolist())}
    return len(answers) == 1 and len(counts) > 1 and -1 not in next(iter(answers))


def _fitted(
    split: LabelSplit,
    loss: Loss,
    kind: type[TokenCorrection],
    fit_to: Callable[..., LinearFit],
    numbers: Tensor,
    fold_of: Tensor,
) -> FittedCorrection:
    """Fit one kind.

    Args:
        loss: what is fitted.
        kind: the class of the correction.
        fit_to: fits the weights of its features.
        numbers, fold_of: the examples, and the fold of each.
    """
    x, among = kind.features(loss.tokens.states), _some(loss.unit)
    basis = _components(x[among], len(loss.tokens.tokens))
    fold = fold_of[torch.searchsorted(numbers, loss.unit)]
    fit = fit_to(loss, x if basis is None else x @ basis, fold, among=among).on(basis)
    options = None
    if split.options is not None and split.choices is not None:
        question = split.choices.number[split.choices.options.question]
        option = torch.searchsorted(split.choices.row, split.options.example)
        unseen = fold_of[torch.searchsorted(numbers, question)][option]
        options = split.sums(_unseen(split.options, kind.features(split.options.states), fit, unseen))
    tokens, answered = split.answers, kind.features(split.answers.states)
    shift = answered.double() @ fit.weights.T
    return FittedCorrection(
        _moving(tokens.tokens, fit.weights, kind),
        fit.settings,
        [_moving(tokens.tokens, weights, kind) for weights in fit.by_fold],
        _unseen(tokens, answered, fit, fold_of[torch.searchsorted(numbers, tokens.example)]),
        options,
        -tokens.label_log_probs(shift).mean().item(),
        tokens.ranked_first(shift).double().mean().item(),
    )


def _some(unit: Tensor) -> Tensor:
    """Return which tokens are fitted, bool [N]: all, or at most `MAX_TOKENS`, of examples drawn at random."""
    numbers, row, counts = unit.unique(return_inverse=True, return_counts=True)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    drawn = torch.zeros_like(numbers, dtype=torch.bool)
    drawn[order] = counts[order].cumsum(0) <= MAX_TOKENS
    if not drawn.all():
        _log.info("corrections are fitted to %s of the %s tokens", int(counts[drawn].sum()), len(unit))
    return drawn[row]


def _components(states: Tensor, tokens: int) -> Tensor | None:
    """Return an orthonormal basis [H, F] of the states' principal components; None where all of H is affordable.

    Args:
        states: of the tokens that are fitted, [N, H].
        tokens: k.
    """
    size = max(_LEAST_COMPONENTS, MAX_PRODUCTS // (len(states) * tokens))
    if size >= states.shape[-1]:
        return None
    _log.info("the calibrated head is fitted on %s principal components of %s", size, states.shape[-1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.svd_lowrank(states, q=size)[2]


def rescored(tokens: LabelTokens, corrections: Mapping[str, TokenCorrection]) -> dict[str, Outcome]:
    """Return what corrections achieve on other, held-out tokens, by name.

    Args:
        tokens: the other tokens, at all tokens that any of the corrections changes.
        corrections: by name.
    """
    found = {}
    for name, one in corrections.items():
        shift = torch.zeros_like(tokens.log_p)
        shift[:, torch.searchsorted(tokens.tokens, one.tokens)] = one.shift(tokens.states)
        found[name] = _outcome(tokens, shift)
    return found


def as_collected(tokens: LabelTokens) -> Outcome:
    """Return what the model that the tokens were collected with achieves on them."""
    return _outcome(tokens, torch.zeros_like(tokens.log_p))


def _outcome(tokens: LabelTokens, shift: Tensor) -> Outcome:
    nll = -tokens.label_log_probs(shift).mean().item()
    return Outcome(nll, nll, tokens.ranked_first(shift).double().mean().item())


def _unseen(tokens: LabelTokens, features: Tensor, fit: LinearFit, fold: Tensor) -> Tensor:
    """Return the log-probability of each label by the weights found without its fold, float64 [N]."""
    found = torch.zeros(len(fold), dtype=torch.float64)
    for number, weights in enumerate(fit.by_fold):
        mine = fold == number
        found[mine] = tokens.part(mine).label_log_probs(features[mine].double() @ weights.T)
    return found


def _moving(tokens: Tensor, weights: Tensor, kind: type[TokenCorrection]) -> Correction:
    """Return the correction of the tokens that the fit has moved."""
    moved = weights.any(dim=-1)
    return kind.fitted(tokens[moved], weights[moved].float())
