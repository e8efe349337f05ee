"""What the answers of each system are worth, and how sure the differences are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from svd_lightning.commands.judge.predictions import Row
from svd_lightning.commands.judge.protocol import Verdict
from svd_lightning.metrics import Average, both, exact_match, extract_option, paired_gain, rouge_l

JUDGED = ("truthful", "informative", "truthful_informative")
MEASURES = ("exact_match", "rouge_l", "accuracy", *JUDGED)
"""In the order of the tables."""

_AGAINST = "tuned"
_MISSING = math.nan


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One answer of one system, with its numbers; NaN where a measure does not apply or the judge abstained."""

    row: int
    """The row that it belongs to."""
    text: str
    """The answer."""
    verdict: Verdict | None
    """The judge's, where it was asked."""
    numbers: Mapping[str, float]
    """By measure."""


def score(row: int, of: Row, text: str, verdict: Verdict | None) -> Scored:
    """Every measure of one answer.

    Exact match and ROUGE-L need a reference, the accuracy a reference that names an option; what a judge has
    not been asked is missing.
    """
    numbers = dict.fromkeys(MEASURES, _MISSING)
    if of.correct:
        numbers |= {"exact_match": exact_match(text, of.correct), "rouge_l": rouge_l(text, of.correct)}
    if of.label is not None:
        numbers["accuracy"] = extract_option(text, of.label) == of.label
    if verdict is not None:
        verdicts = (verdict.truthful, verdict.informative, both(verdict.truthful, verdict.informative))
        numbers |= {name: _MISSING if each is None else each for name, each in zip(JUDGED, verdicts, strict=True)}
    return Scored(row=row, text=text, verdict=verdict, numbers={name: float(n) for name, n in numbers.items()})


def summary(rows: Sequence[Row], scored: Mapping[str, Sequence[Scored]]) -> dict[str, Any]:
    """Means per system and differences to the tuned model, of all rows and of each task.

    Args:
        rows: what was asked.
        scored: by system, the answers in the same order for every system.

    Returns:
        ```
        {"rows": how many prompts,
         "systems": {"base": {"answers": N, "judged": how many answers the judge was asked about,
                              "exact_match": 0.12, "rouge_l": ..., "accuracy": ...,      shares in [0, 1]
                              "truthful": ..., "informative": ..., "truthful_informative": ...,
                              "abstained": {"truthful": 3, "informative": 0, "truthful_informative": 2}},
                     "tuned": {...}, "steered": {...}},
         "gains": {"base": {"rouge_l": {"mean": -0.01, "low": -0.02, "high": 0.0}, ...}, "steered": {...}},
         "tasks": {"boolq": {"rows", "systems", "gains"}, ...}}                          where rows name tasks
        ```
        A measure that applies to no answer is null. A gain is system − tuned, with its 95 % interval by paired
        bootstrap over rows; null where there is no tuned answer or fewer than two rows to compare. Shares of
        truthful and informative answers leave abstentions out, pairs with one too.
    """
    tasks: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if row.task is not None:
            tasks.setdefault(row.task, []).append(number)
    parts = {task: _part(numbers, scored) for task, numbers in tasks.items()}
    return _part(range(len(rows)), scored) | ({"tasks": parts} if parts else {})


def _part(numbers: Sequence[int], scored: Mapping[str, Sequence[Scored]]) -> dict[str, Any]:
    chosen = set(numbers)
    kept = {name: [answer for answer in answers if answer.row in chosen] for name, answers in scored.items()}
    others = [name for name in kept if name != _AGAINST]
    return {
        "rows": len(chosen),
        "systems": {name: _means(answers) for name, answers in kept.items()},
        "gains": {name: _gains(kept[name], kept[_AGAINST]) for name in others} if _AGAINST in kept else {},
    }


def _means(answers: Sequence[Scored]) -> dict[str, Any]:
    judged = [answer for answer in answers if answer.verdict is not None]
    return {
        "answers": len(answers),
        "judged": len(judged),
        **{name: _mean(_column(answers, name)) for name in MEASURES},
        "abstained": {name: sum(math.isnan(answer.numbers[name]) for answer in judged) for name in JUDGED},
    }


def _mean(values: Tensor) -> float | None:
    known = values[~values.isnan()]
    if not known.numel():
        return None
    metric = Average()
    metric.update(known)
    return metric.compute().item()


def _gains(these: Sequence[Scored], tuned: Sequence[Scored]) -> dict[str, Any]:
    example = torch.tensor([answer.row for answer in these])
    found: dict[str, Any] = {}
    for name in MEASURES:
        gain = paired_gain(_column(these, name), _column(tuned, name), example)
        found[name] = gain.plain() if math.isfinite(gain.low) else None
    return found


def _column(answers: Sequence[Scored], name: str) -> Tensor:
    return torch.tensor([answer.numbers[name] for answer in answers], dtype=torch.float64)
