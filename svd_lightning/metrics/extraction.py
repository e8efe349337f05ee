"""Accuracy by generation: the option that an answer names first."""

import re
from collections.abc import Sequence

from torch import tensor

from svd_lightning.metrics.average import Average

_FAMILIES = (
    ("true", "false"),
    ("solution1", "solution2"),
    ("answer1", "answer2", "answer3", "answer4", "answer5"),
    ("ending1", "ending2", "ending3", "ending4"),
    ("option1", "option2"),
)
"""The words by which LLM-Adapters' prompts name their options."""

_REFERENCE = re.compile(
    rf"(?:the correct answer is )?({'|'.join(word for words in _FAMILIES for word in words)})\.?"
)


def option_label(reference: str) -> str | None:
    """The option that a reference names, or None where it is no answer by option.

    >>> option_label(" the correct answer is answer3"), option_label("true"), option_label("It is true.")
    ('answer3', 'true', None)
    """
    found = _REFERENCE.fullmatch(reference.strip())
    return found[1] if found else None


def extract_option(answer: str, label: str) -> str | None:
    """The first word in an answer that names an option of the label's kind; None where there is none.

    LLM-Adapters' rule to the letter: lower case only, and inside longer words too ("untrue" says true).

    Args:
        answer: what was generated.
        label: any option of the question; it tells the kind, true/false, solution1/2, answer1 to 5, ending1
            to 4, option1/2.

    Raises:
        ValueError: for a label that is none of these.

    Source: LLM-Adapters (Hu et al. 2023), `extract_answer` of its commonsense evaluation.

    >>> extract_option("the correct answer is answer2, not answer1", label="answer1")
    'answer2'
    """
    family = next((words for words in _FAMILIES if label in words), None)
    if family is None:
        known = ", ".join("/".join(words) for words in _FAMILIES)
        raise ValueError(f"label: expected one of {known}, got {label!r}")
    found = re.search("|".join(family), answer)
    return found[0] if found else None


class ExtractionAccuracy(Average):
    """Share of the answers whose first option word is the right one; an answer without any is wrong.

    >>> metric = ExtractionAccuracy()
    >>> metric.update(["the correct answer is true", "who knows"], ["true", "false"])
    >>> metric.compute().item()
    0.5
    """

    def update(self, answers: Sequence[str], labels: Sequence[str]) -> None:  # type: ignore[override]
        """Compare some answers with the right option of each."""
        found = [extract_option(answer, label) == label for answer, label in zip(answers, labels, strict=True)]
        super().update(tensor(found, dtype=self.total.dtype))
