"""Steering rules: what a rule is, and the five that are built in."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from svd_lightning.functional import expectation, kl_direction, kl_from_log_probs


@runtime_checkable
class SteeringRule(Protocol):
    """A direction d = direction(log p, log q, centre) that needs one number from the whole vocabulary.

    The split in two lets calibration keep only the confident tokens of each position and still evaluate the rule
    exactly on them (README, "The method"). A new rule is one class with these two methods; one in this file also
    takes an entry in `BUILT_IN_RULES`. One that never looks at log q has an attribute `reads_base` that is False.
    """

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return the one number per position that takes the whole vocabulary: [..., V], [..., V] → [...]."""
        ...

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """Return the direction on any subset of tokens: [..., S], [..., S], [..., 1] → [..., S], finite."""
        ...


@runtime_checkable
class VocabularyBound(Protocol):
    """A rule with a number for each token, which belongs to one vocabulary."""

    def check_vocabulary(self, vocabulary: Mapping[str, int]) -> None:
        """Raise InputError for the vocabulary of another tokenizer."""
        ...


class KLGradient:
    """d = J·log(p/q) = p ⊙ (log(p/q) − KL(p‖q)), the task direction of the paper.

    >>> log_p, log_q = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> rule = KLGradient()
    >>> rule.direction(log_p, log_q, rule.centre(log_p, log_q))
    tensor([ 0.2599, -0.2166, -0.0433])

    Source: Hu et al. (2025), arXiv 2509.15888, eq. 6 to 9.
    """

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return KL(p‖q)."""
        return kl_from_log_probs(log_p, log_q)

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """Return p ⊙ (log p − log q − KL)."""
        return kl_direction(log_p, log_q, centre)


class NaturalGradient:
    """d = log(p/q) − KL(p‖q): the KL gradient preconditioned by the inverse Fisher matrix of the softmax.

    The Fisher matrix is J itself, so J⁺·J·log(p/q) is log(p/q) up to a constant. E_p[d] = 0 fixes it here, because
    it matters under a mask. Proxy tuning and contrastive decoding extrapolate along this direction, and it is the
    paper's ablation "without projection".

    >>> log_p, log_q = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> rule = NaturalGradient()
    >>> rule.direction(log_p, log_q, rule.centre(log_p, log_q))
    tensor([ 0.5199, -0.8664, -0.1733])
    """

    centre = KLGradient.centre

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """Return the centred log-ratio: log p − log q − KL."""
        return log_p - log_q - centre


class TaskAware:
    """d = (p − q) − E_p[p − q]: the tuned model's probability gains, centred under p (task-aware decoding).

    Xu et al. take the difference between the output probabilities after and before fine-tuning as the direction
    from general to task knowledge, and move the tuned output further along it. Here that difference is a direction
    in logit space like every other rule, with the same mask, penalty, calibration and control, so that a
    comparison is one of directions alone. The constants and the space of the publication were not checked: only
    its abstract was available.

    >>> log_p, log_q = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> rule = TaskAware()
    >>> rule.direction(log_p, log_q, rule.centre(log_p, log_q))
    tensor([ 0.1875, -0.3125, -0.0625])

    Source: Xu et al. (2024), "TaD: A Plug-and-Play Task-Aware Decoding Method", IJCAI 2024.
    """

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return E_p[p − q]."""
        return expectation(log_p, log_p.exp() - log_q.exp())

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """Return the centred difference of the probabilities."""
        return log_p.exp() - log_q.exp() - centre


class Temperature:
    """d = log p + H(p), so that z + μ d is the tuned model at temperature 1 / (1 + μ); E_p[d] = 0.

    The control: it sharpens the tuned distribution without looking at the base. A short warm start is
    under-confident, so sharpening alone lowers the NLL; a gain of steering counts when it beats this.

    >>> log_p, log_q = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    >>> rule = Temperature()
    >>> rule.direction(log_p, log_q, rule.centre(log_p, log_q))
    tensor([ 0.3466, -0.3466, -0.3466])
    """

    reads_base = False

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return E_p[log p] = −H(p)."""
        return expectation(log_p, log_p)

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """Return the centred log-probability: log p + H(p)."""
        return log_p - centre


class ConfidentSet:
    """d = 1 on the confident tokens, 0 on the others: the penalty as a direction, with strength −λ.

    Lifting the confident set by c and lowering the rest by c give the same distribution, so the penalty is one
    more convex coefficient that can be fitted. Use it with `penalty: 0`; a fitted strength of 20 or more is λ = −∞
    in effect.

    Source: README, "The method".
    """

    reads_base = False

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return 0: nothing is needed from the whole vocabulary."""
        return log_p.new_zeros(log_p.shape[:-1])

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """Return ones: the mask does the rest."""
        return torch.ones_like(log_p)


BUILT_IN_RULES: tuple[type, ...] = (KLGradient, NaturalGradient, TaskAware, Temperature, ConfidentSet)
"""The rules that checkpoints and artefacts may name; every calibration tries all but ConfidentSet."""


def with_built_in(rules: Sequence[SteeringRule]) -> tuple[SteeringRule, ...]:
    """Append the built-in rules that are not among the given ones, except ConfidentSet, which is the penalty.

    >>> [rule_name(rule) for rule in with_built_in([Temperature()])]
    ['Temperature', 'KLGradient', 'NaturalGradient', 'TaskAware']
    """
    given = {ConfidentSet, *map(type, rules)}
    return (*rules, *(rule() for rule in BUILT_IN_RULES if rule not in given))


def rule_name(rule: SteeringRule) -> str:
    """Return the name of a rule in tables, reports and checkpoints: its `name`, or else its class name.

    >>> rule_name(KLGradient())
    'KLGradient'
    """
    return getattr(rule, "name", type(rule).__name__)
