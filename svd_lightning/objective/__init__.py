"""What is minimised: calibration tokens, the objective K(μ) on them, and the snapshot of the base."""

from collections.abc import Sequence
from dataclasses import dataclass

from svd_lightning.objective.choice import ChoiceObjective, Choices
from svd_lightning.objective.collect import TokenCollector
from svd_lightning.objective.interface import (
    Evaluation,
    ExampleSums,
    Objective,
    Priced,
    TokenObjective,
    judged_penalty,
)
from svd_lightning.objective.label_tokens import LabelCollector, LabelTokens, label_tokens
from svd_lightning.objective.masked import MaskedObjective
from svd_lightning.objective.snapshot import ReferenceSnapshot
from svd_lightning.objective.stream import StreamedObjective, TokenStream, prefetch
from svd_lightning.objective.tokens import TokenTable
from svd_lightning.steering import SteeringRule

__all__ = [
    "CalibrationTokens",
    "ChoiceObjective",
    "Choices",
    "Evaluation",
    "ExampleSums",
    "LabelCollector",
    "LabelTokens",
    "MaskedObjective",
    "Objective",
    "Priced",
    "QuestionTokens",
    "ReferenceSnapshot",
    "StreamedObjective",
    "TokenCollector",
    "TokenObjective",
    "TokenStream",
    "TokenTable",
    "judged_penalty",
    "label_tokens",
    "objective",
    "prefetch",
]

CalibrationTokens = TokenTable | TokenStream
"""N labelled tokens under both models: a table for steering with a mask, a stream for steering without."""


@dataclass(frozen=True, eq=False)
class QuestionTokens:
    """The tokens by which the options of some questions differ."""

    tokens: CalibrationTokens
    """Each option's own tokens, from the first in which the question's options differ; the examples are rows."""
    choices: Choices


def objective(tokens: CalibrationTokens, rules: Sequence[SteeringRule], *, penalty: float = 0.0) -> TokenObjective:
    """Return K(μ) on calibration tokens along these directions.

    Args:
        tokens: a table or a stream.
        rules: the directions d_k.
        penalty: λ ≤ 0, for what lies outside a table's mask; a stream has no outside.

    Raises:
        InputError: if λ = −∞ and no label lies inside the mask.
    """
    if isinstance(tokens, TokenStream):
        return StreamedObjective(tokens, rules)
    return MaskedObjective(tokens, rules, penalty=penalty)
