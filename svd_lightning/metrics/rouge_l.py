"""How much of a reference answer stands in an answer, in its order."""

import re
from collections.abc import Sequence

from torch import tensor
from torchmetrics.functional.text.rouge import rouge_score

from svd_lightning.metrics.average import Average

_WORD = re.compile(r"[^\W_]+")


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L: the F-measure of the longest common subsequence of words, the best over the references.

    F = 2 P R / (P + R), P = LCS / words of the answer, R = LCS / words of the reference. Words are runs of
    letters and digits, lower-cased, not stemmed. On English text this is the usual ROUGE-L; letters beyond a–z,
    which that drops, count here. Languages without spaces between words need words of their own.

    Returns:
        A number in [0, 1]; 0 for an answer or references without words.

    Source: Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries".

    >>> rouge_l("The capital is Lima.", ["Lima", "the capital of Peru is Lima"])
    0.8
    """
    if not references:
        return 0.0
    found = rouge_score(answer, list(references), rouge_keys="rougeL", normalizer=str.lower, tokenizer=_words)
    return round(float(found["rougeL_fmeasure"]), 6)  # torchmetrics computes in float32


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


class RougeL(Average):
    """Mean ROUGE-L of the answers, each against the best of its references.

    >>> metric = RougeL()
    >>> metric.update(["Lima", "no idea"], [["Lima"], ["Lima"]])
    >>> metric.compute().item()
    0.5
    """

    def update(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> None:  # type: ignore[override]
        """Compare some answers with the references of each."""
        found = [rouge_l(answer, known) for answer, known in zip(answers, references, strict=True)]
        super().update(tensor(found, dtype=self.total.dtype))
