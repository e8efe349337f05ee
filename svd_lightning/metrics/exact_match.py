"""Whether an answer is, word for word, one of the reference answers."""

from collections.abc import Sequence

from torch import tensor

from svd_lightning.metrics.average import Average


def exact_match(answer: str, references: Sequence[str]) -> bool:
    """Whether an answer equals a reference, up to white space.

    Case and punctuation count: a model that was tuned to write "answer2" is not right with "Answer 2.".

    >>> exact_match(" the correct  answer is answer2\\n", ["the correct answer is answer2"])
    True
    """
    words = answer.split()
    return any(words == reference.split() for reference in references)


class ExactMatch(Average):
    """Share of the answers that equal one of their references, up to white space.

    >>> metric = ExactMatch()
    >>> metric.update([" Lima", " Cuzco"], [["Lima"], ["Lima", "Lima, Peru"]])
    >>> metric.compute().item()
    0.5
    """

    def update(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> None:  # type: ignore[override]
        """Compare some answers with the references of each."""
        found = [exact_match(answer, known) for answer, known in zip(answers, references, strict=True)]
        super().update(tensor(found, dtype=self.total.dtype))
