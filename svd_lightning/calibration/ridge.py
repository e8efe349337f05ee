"""The fit of a correction: a convex ridge regression along a path of penalties, chosen by cross-validation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from svd_lightning.calibration.losses import Loss
from svd_lightning.objective import LabelTokens
from svd_lightning.signals import check

RIDGES = (math.inf, *(10.0**power for power in range(1, -6, -1)))
"""λ to choose from, the strongest first: ∞ (no correction), 10 down to 1e-5."""

_PATIENCE = 2
"""Weaker penalties that are tried after the best one so far before the paths end."""


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Weights of features, fitted to all examples and without each fold."""

    weights: Tensor
    """W, float64 [k, F]; rows of 0 for tokens that are a label less than twice."""
    by_fold: list[Tensor]
    """W without each fold, of which nothing reaches them."""
    settings: Mapping[str, float]
    """What was chosen for W beside it, by name: λ as `ridge`."""

    def on(self, basis: Tensor | None) -> "LinearFit":
        """Return the weights of x where those of x·B were fitted, B [F, F′]; the same for None."""
        if basis is None:
            return self
        whole = basis.double().T
        return LinearFit(self.weights @ whole, [weights @ whole for weights in self.by_fold], self.settings)


def free_tokens(tokens: LabelTokens) -> Tensor:
    """Return the places of the tokens that are a label at least twice among these, int64 [f]; others stay."""
    k = len(tokens.tokens)
    return (torch.bincount(tokens.outcome, minlength=k + 1)[:k] >= 2).nonzero().squeeze(-1)


def ridge_fit(loss: Loss, features: Tensor, fold: Tensor, *, among: Tensor) -> LinearFit:
    """Fit s_v = w_v·x to a loss of the labels, with λ by cross-validation.

    minimise over W:  mean loss under ẑ_v = z_v + w_v·x  +  λ · mean ‖x‖² · ‖W‖²

    With the NLL of the labels this is multinomial logistic regression with offsets, and convex. Only tokens move
    that are a label at least twice among those that are fitted. λ has the lowest loss over all folds, each scored
    by a fit without it. For the fit without fold f, λ is chosen in the same way among the other folds, by fits
    without f too: nothing of a fold reaches what it is scored with.

    Args:
        loss: of the labelled tokens.
        features: x, [N, F].
        fold: the fold of each token, int64 [N], from 0; at least three.
        among: the tokens that are fitted and scored, bool [N].
    """
    scale = features.double().square().sum(dim=-1).mean().sqrt().clamp_min(1e-30)
    x, folds = features / scale.float(), range(int(fold.max()) + 1)
    alone = [_Path(loss, x, among & (fold != one)) for one in folds]
    pairs = {(a, b): _Path(loss, x, among & (fold != a) & (fold != b)) for a, b in combinations(folds, 2)}
    unseen = [among & (fold == one) for one in folds]
    whole, without = _Choice(), [_Choice() for _ in folds]
    for ridge in RIDGES:
        check()
        for path in (*alone, *pairs.values()):
            path.step(ridge)
        whole.add(sum(path.total(unseen[one]) for one, path in enumerate(alone)))
        for one in folds:
            others = ((pairs[min(one, each), max(one, each)], each) for each in folds if each != one)
            without[one].add(sum(path.total(unseen[each]) for path, each in others))
        if all(choice.settled for choice in (whole, *without)):
            break
    final = _Path(loss, x, among)
    for ridge in RIDGES[: whole.best + 1]:
        final.step(ridge)
    by_fold = [path.weights[choice.best] / scale for path, choice in zip(alone, without, strict=True)]
    return LinearFit(final.weights[-1] / scale, by_fold, {"ridge": RIDGES[whole.best]})


class _Choice:
    """The held-out loss of each penalty so far."""

    def __init__(self) -> None:
        self._loss: list[float] = []

    def add(self, loss: float) -> None:
        self._loss.append(loss)

    @property
    def best(self) -> int:
        """The place of the best penalty."""
        return self._loss.index(min(self._loss))

    @property
    def settled(self) -> bool:
        """Whether weaker penalties have stopped helping."""
        return len(self._loss) - 1 - self.best >= _PATIENCE


class _Path:
    """The minima for weaker and weaker penalties, each search beginning at the last one's end.

    Between the searches a path keeps weights alone: the features, which are large, are shared by all. Searches
    run in float32, which halves their time: at the minimum a rounding error changes the loss in the second order.

    Args:
        loss: of the labelled tokens.
        features: x, float32 [N, F].
        among: the tokens that are fitted, bool [N].
    """

    def __init__(self, loss: Loss, features: Tensor, among: Tensor) -> None:
        self._loss, self._features, self._among = loss, features, among
        self._free = free_tokens(loss.tokens.part(among))
        self._found = torch.zeros(len(self._free), features.shape[-1])
        self._none = torch.zeros(len(loss.tokens.tokens) + 1, features.shape[-1])
        self.weights: list[Tensor] = []
        """The minima so far, float64 [k, F]."""

    def step(self, ridge: float) -> None:
        """Add the minimum for the next penalty."""
        if math.isfinite(ridge) and len(self._free):
            self._minimise(ridge)
        self.weights.append(self._all(self._found)[:-1].double())

    def total(self, unseen: Tensor) -> float:
        """Return the summed loss of unseen tokens (bool [N]) at the last minimum."""
        return self._loss.part(unseen).total(self._features[unseen].double() @ self.weights[-1].T)

    def _all(self, free: Tensor) -> Tensor:
        """Return the weights of all k + 1 outcomes."""
        return self._none.index_copy(0, self._free, free)

    def _minimise(self, ridge: float) -> None:
        x, part, weights = self._features[self._among], self._loss.part(self._among), self._found.clone()
        search = torch.optim.LBFGS([weights], max_iter=100, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

        def closure() -> float:
            loss, gradient = part(x @ self._all(weights).T)
            weights.grad = gradient[:, self._free].T @ x + 2.0 * ridge * weights  # no autograd in calibration
            return loss + ridge * weights.square().sum().item()

        search.step(closure)
        self._found = weights
