"""What a steering rule is: a direction in logit space that can be computed token by token."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class SteeringRule(Protocol):
    """A direction d = direction(log p, log q, centre) that needs one number from the whole vocabulary.

    Splitting the rule in two lets calibration keep a few confident tokens of each position and still
    evaluate the rule exactly on them (README, "The method"). A new rule is one new file with these two methods.
    """

    def centre(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The one number per position that takes the whole vocabulary: [..., V], [..., V] → [...]."""
        ...

    def direction(self, log_p: Tensor, log_q: Tensor, centre: Tensor) -> Tensor:
        """The direction on any subset of tokens: [..., S], [..., S], [..., 1] → [..., S], finite."""
        ...


@runtime_checkable
class VocabularyBound(Protocol):
    """A rule that holds numbers for single tokens, and so belongs to one vocabulary."""

    def check_vocabulary(self, vocabulary: Mapping[str, int]) -> None:
        """Refuse a tokenizer with another vocabulary, with an InputError."""
        ...


def rule_name(rule: SteeringRule) -> str:
    """The name under which tables, reports and checkpoints know a rule: its `name` if it has one, else its class.

    >>> from svd_lightning.steering import KLGradient
    >>> rule_name(KLGradient())
    'KLGradient'
    """
    return getattr(rule, "name", type(rule).__name__)
