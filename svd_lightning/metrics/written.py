"""Measures of written answers: exact match, ROUGE-L, the option that an answer names, a judge's opinion."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text.rouge import rouge_score

from svd_lightning.processes import gather

_WORD = re.compile(r"[^\W_]+")
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")

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


class Average(Metric):
    """Mean of one number per answer or token; sums in float64, additive over processes.

    >>> metric = Average()
    >>> metric.update([1.0, 0.0, 0.0, 1.0])
    >>> metric.compute().item()
    0.5
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=gather)
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor | Sequence[float]) -> None:
        """Add some numbers, [N]."""
        numbers = torch.as_tensor(values, dtype=torch.float64)
        self.total += numbers.sum().to(self.total.device)
        self.count += numbers.numel()

    def compute(self) -> Tensor:
        """Return the mean; NaN before the first number."""
        return self.total / self.count


def exact_match(answer: str, references: Sequence[str]) -> bool:
    """Return whether an answer equals a reference, up to white space.

    Case and punctuation count: a model that was tuned to write "answer2" is not right with "Answer 2.".

    >>> exact_match(" the correct  answer is answer2\\n", ["the correct answer is answer2"])
    True
    """
    words = answer.split()
    return any(words == reference.split() for reference in references)


class ExactMatch(Average):
    """Fraction of the answers that equal one of their references, up to white space.

    >>> metric = ExactMatch()
    >>> metric.update([" Lima", " Cuzco"], [["Lima"], ["Lima", "Lima, Peru"]])
    >>> metric.compute().item()
    0.5
    """

    def update(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> None:  # type: ignore[override]
        """Compare some answers with the references of each."""
        super().update([exact_match(*each) for each in zip(answers, references, strict=True)])


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """Return ROUGE-L: the F-measure of the longest common subsequence of words, the best over the references.

    F = 2 P R / (P + R), P = LCS / words of the answer, R = LCS / words of the reference. Words are runs of
    letters and digits, lower-cased, not stemmed. On English text this is the usual ROUGE-L; it also counts
    letters beyond a–z, which the usual one drops. A language without spaces between words needs another splitter.

    Returns:
        A number in [0, 1]; 0 for an answer or references without words.

    Source: Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries".

    >>> rouge_l("The capital is Lima.", ["Lima", "the capital of Peru is Lima"])
    0.8
    """
    if not references:
        return 0.0
    scores = rouge_score(
        answer, list(references), rouge_keys="rougeL", normalizer=str.lower, tokenizer=_WORD.findall
    )
    return round(float(scores["rougeL_fmeasure"]), 6)  # torchmetrics computes in float32


def repeated_trigrams(text: str) -> float:
    """Return the share of a text's trigrams that occur earlier in it, in [0, 1]; 0 for fewer than two trigrams.

    A trigram is three words or punctuation marks in a row, in lower case. Sound prose repeats a few per cent of
    them, a text that runs in circles most. A language without spaces between words needs another splitter.

    >>> repeated_trigrams("scientific scientific scientific scientific"), repeated_trigrams("It was. It was not.")
    (0.5, 0.0)
    """
    words = _WORD_OR_MARK.findall(text.lower())
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return 1.0 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


class RougeL(Average):
    """Mean ROUGE-L of the answers, each against the best of its references.

    >>> metric = RougeL()
    >>> metric.update(["Lima", "no idea"], [["Lima"], ["Lima"]])
    >>> metric.compute().item()
    0.5
    """

    def update(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> None:  # type: ignore[override]
        """Compare some answers with the references of each."""
        super().update([rouge_l(*each) for each in zip(answers, references, strict=True)])


def option_label(reference: str) -> str | None:
    """Return the option that a reference names, or None if it names none.

    >>> option_label(" the correct answer is answer3"), option_label("true"), option_label("It is true.")
    ('answer3', 'true', None)
    """
    match = _REFERENCE.fullmatch(reference.strip())
    return match[1] if match else None


def extract_option(answer: str, label: str) -> str | None:
    """Return the first word in an answer that names an option of the label's kind; None if there is none.

    This is LLM-Adapters' rule to the letter: lower case only, and inside longer words too ("untrue" says true).

    Args:
        answer: what was generated.
        label: any option of the question; it gives the kind: true/false, solution1/2, answer1 to 5, ending1
            to 4, option1/2.

    Raises:
        ValueError: for a label that is none of these.

    Source: LLM-Adapters (Hu et al. 2023), `extract_answer` of its commonsense evaluation.

    >>> extract_option("the correct answer is answer2, not answer1", label="answer1")
    'answer2'
    """
    family = next((words for words in _FAMILIES if label in words), None)
    if family is None:
        labels = ", ".join("/".join(words) for words in _FAMILIES)
        raise ValueError(f"label: expected one of {labels}, got {label!r}")
    match = re.search("|".join(family), answer)
    return match[0] if match else None


class ExtractionAccuracy(Average):
    """Fraction of the answers whose first option word is the right one; an answer without any is wrong.

    >>> metric = ExtractionAccuracy()
    >>> metric.update(["the correct answer is true", "who knows"], ["true", "false"])
    >>> metric.compute().item()
    0.5
    """

    def update(self, answers: Sequence[str], labels: Sequence[str]) -> None:  # type: ignore[override]
        """Compare some answers with the right option of each."""
        super().update([extract_option(*each) == each[1] for each in zip(answers, labels, strict=True)])


def both(first: bool | None, second: bool | None) -> bool | None:
    """Return whether two opinions are both yes; one no decides, otherwise an abstention gives None.

    >>> both(True, True), both(None, False), both(True, None)
    (True, False, None)
    """
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


class JudgedRate(Average):
    """Fraction of yes among the answers on which the judge did not abstain (None).

    For %Truth×Info give `both` of the two opinions: the metric is then the fraction of answers that are truthful
    and informative at once, not the product of the two fractions.

    >>> metric = JudgedRate()
    >>> metric.update([True, False, None])
    >>> metric.compute().item(), metric.abstained.item()
    (0.5, 1)
    """

    abstained: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("abstained", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, opinions: Sequence[bool | None]) -> None:  # type: ignore[override]
        """Count some opinions."""
        given = [opinion for opinion in opinions if opinion is not None]
        self.abstained += len(opinions) - len(given)
        super().update(given)
