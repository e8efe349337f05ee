"""Scores of labels under many distributions at little more than the price of one: most move few tokens' logits."""

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from svd_lightning.functional import at_label, confidence_mask, kl_from_log_probs, log_probabilities
from svd_lightning.scoring.tokens import LogitChunk
from svd_lightning.steering import (
    UNSTEERED,
    Corrected,
    KLGradient,
    RowSteering,
    Steering,
    SteeringFunction,
    SteeringRule,
    TokenCorrection,
)


class LabelScores(NamedTuple):
    """Scores of n tokens under one distribution."""

    log_probs: Tensor
    """Log-probabilities of the labels, float32 [n]; −∞ for a label that it forbids."""
    kl: Tensor
    """KL(· ‖ q) to the base, in nats, float32 [n]."""


class _Rest(NamedTuple):
    """The tokens of each position that are left alone, as sums over them, float64 [n] each."""

    mass: Tensor
    """Σ p"""
    moved: Tensor
    """Σ p (log p − log q)"""


class _Moved(NamedTuple):
    """The tokens whose logits change, entry m at position row m; all others change by one number."""

    row: Tensor
    """int64 [M]"""
    entry: Tensor
    """int64 [M]"""
    shift: Tensor
    """s, float64 [M]"""
    penalty: float
    """λ, finite."""
    rest: _Rest


class ChunkScorer:
    """Scores the labels of a chunk under one distribution after the other.

    With a mask, or under a correction, the logits of a few tokens S of a position change by s, all others by λ. So

        log p̂_y = log p_y + s_y − log Z,  Z = Σ_S p e^s + e^λ Σ_rest p,
        KL(p̂ ‖ q) = (Σ_S p e^s (r + s) + e^λ Σ_rest p (r + λ)) / Z − log Z,  r = log p − log q:

    the same few passes over the vocabulary serve all of them. Any other distribution takes passes of its own.

    Args:
        chunk: both models' logits.
    """

    def __init__(self, chunk: LogitChunk) -> None:
        self._chunk = chunk
        self._log_p, self._log_q = map(log_probabilities, (chunk.tuned_logits, chunk.base_logits))
        self._centres: dict[object, Tensor] = {}
        self._masks: dict[float, tuple[Tensor, Tensor, _Rest]] = {}

    def scores(self, steering: SteeringFunction) -> LabelScores:
        """Return the scores under a steering function with its correction; a penalty of −∞ is not allowed."""
        chunk = self._chunk
        if steering is UNSTEERED["base"]:
            return LabelScores(self._log_probs(chunk.base_logits, self._log_q), torch.zeros_like(self._kl))
        if steering is UNSTEERED["tuned"]:
            return LabelScores(self._log_probs(chunk.tuned_logits, self._log_p), self._kl)
        if isinstance(steering, RowSteering):
            return self._of_rows(steering)
        moved = self._moved(steering)
        return self._from_all(steering) if moved is None else self._from_few(moved)

    def _of_rows(self, steering: RowSteering) -> LabelScores:
        """Score each row under its own function."""
        parts = [(rows, self._moved(function)) for rows, function in steering.parts()]
        log_probs, kl = torch.empty_like(self._kl), torch.empty_like(self._kl)
        for rows, moved in parts:
            if moved is None:
                return self._from_all(steering)
            scores = self._from_few(moved)
            log_probs[rows], kl[rows] = scores.log_probs[rows], scores.kl[rows]
        return LabelScores(log_probs, kl)

    def _moved(self, steering: SteeringFunction) -> _Moved | None:
        """Return the tokens that a steering moves; None if they are many, or the tuned logits are others."""
        if not isinstance(steering, Steering) or steering.strengths is None:
            return None
        correction = steering.correction if isinstance(steering, Corrected) else None
        if correction is None:
            return None if steering.alpha is None else self._masked(steering, steering.alpha)
        unsteered = steering.penalty == 0.0 and not any(steering.strengths)
        return self._corrected(correction) if unsteered and isinstance(correction, TokenCorrection) else None

    def _masked(self, steering: Steering, alpha: float) -> _Moved:
        if alpha not in self._masks:
            mask = confidence_mask(self._chunk.tuned_logits, alpha)
            rows, entries = mask.nonzero(as_tuple=True)
            self._masks[alpha] = rows, entries, self._rest(mask)
        row, entry, rest = self._masks[alpha]
        log_p, log_q = (each[row, entry].double().unsqueeze(-1) for each in (self._log_p, self._log_q))
        shift = torch.zeros_like(log_p)
        strengths = steering.strengths_at(self._log_p, self._log_q)
        for rule, strength in zip(steering.rules, strengths, strict=True):
            direction = rule.direction(log_p, log_q, self._centre(rule)[row].double().unsqueeze(-1))
            shift += direction * (strength[row] if isinstance(strength, Tensor) else strength)
        return _Moved(row, entry, shift.squeeze(-1), steering.penalty, rest)

    def _corrected(self, correction: TokenCorrection) -> _Moved:
        tokens, (n, vocabulary) = correction.tokens.to(self._log_p.device), self._log_p.shape
        shift = correction.shift(self._chunk.tuned_states).to(self._log_p.device).double().expand(n, len(tokens))
        row = torch.arange(n, device=tokens.device).repeat_interleave(len(tokens))
        inside = torch.zeros(vocabulary, dtype=torch.bool, device=tokens.device).index_fill(0, tokens, True)
        return _Moved(row, tokens.repeat(n), shift.flatten(), 0.0, self._rest(inside))

    def _rest(self, inside: Tensor) -> _Rest:
        """Sum over the tokens that are not among these, bool [n, V] or [V]."""
        return _Rest(*(each.masked_fill(inside, 0.0).sum(dim=-1).double() for each in (self._p, self._terms)))

    def _centre(self, rule: SteeringRule) -> Tensor:
        key = rule if vars(rule) else type(rule)
        if key not in self._centres:
            is_kl = type(rule).centre is KLGradient.centre and not vars(rule)
            self._centres[key] = self._kl if is_kl else rule.centre(self._log_p, self._log_q)
        return self._centres[key]

    def _from_few(self, moved: _Moved) -> LabelScores:
        row, entry, shift, penalty, rest = moved
        log_p, log_q = (each[row, entry].double() for each in (self._log_p, self._log_q))
        steered, others = log_p + shift, rest.mass.log() + penalty
        peak = others.scatter_reduce(0, row, steered, "amax")
        mass = (others - peak).exp().index_add(0, row, (steered - peak[row]).exp())
        log_z = peak + mass.log()
        weighted = (steered - log_z[row]).exp() * (log_p - log_q + shift)
        kl = ((penalty - log_z).exp() * (rest.moved + penalty * rest.mass)).index_add(0, row, weighted) - log_z
        beyond = (shift - penalty) * (entry == self._chunk.labels[row])
        label_shift = torch.full_like(log_z, penalty).index_add(0, row, beyond)
        log_probs = self._at_label(self._chunk.tuned_logits, self._log_p) + label_shift - log_z
        return LabelScores(log_probs.float(), kl.float())

    def _from_all(self, steering: SteeringFunction) -> LabelScores:
        logits = self._chunk.steered(steering)
        log_p = log_probabilities(logits)
        return LabelScores(self._log_probs(logits, log_p), kl_from_log_probs(log_p, self._log_q))

    def _log_probs(self, logits: Tensor, log_p: Tensor) -> Tensor:
        """Return the labels' log-probabilities, [n]; a softmax in float32 sums to 1 ± 1e-5, which is mended."""
        return self._at_label(logits, log_p) - log_p.exp().sum(dim=-1).log()

    def _at_label(self, logits: Tensor, log_p: Tensor) -> Tensor:
        """Return log p of the labels, [n]; −∞ for a forbidden label, where log p is floored."""
        labels = self._chunk.labels
        return at_label(log_p, labels).masked_fill(at_label(logits, labels).isneginf(), -math.inf)

    @cached_property
    def _p(self) -> Tensor:
        return self._log_p.exp()

    @cached_property
    def _terms(self) -> Tensor:
        return self._p * (self._log_p - self._log_q)

    @cached_property
    def _kl(self) -> Tensor:
        return self._terms.sum(dim=-1)
