"""Measure the answers of each system, and the differences with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor

from svd_lightning.commands.judge.predictions import Row
from svd_lightning.commands.judge.protocol import Opinion
from svd_lightning.judged import JudgedMeasure, JudgedPart, Measure, SystemRecord
from svd_lightning.metrics import both, exact_match, extract_option, paired_gain, rouge_l
from svd_lightning.records import GainRecord

JUDGED: tuple[JudgedMeasure, ...] = get_args(JudgedMeasure)
"""The measures that a judge makes."""
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""All measures, in the order of the tables."""

_AGAINST = "tuned"
_MISSING = math.nan


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One answer of one system with its numbers; NaN if a measure does not apply or the judge abstained."""

    row: int
    """Number of the row that it belongs to."""
    text: str
    """The answer."""
    opinion: Opinion | None
    """The judge's; None if it was not asked."""
    numbers: Mapping[Measure, float]
    """By measure."""


def score(row: int, of: Row, text: str, opinion: Opinion | None) -> Scored:
    """Measure one answer.

    Exact match and ROUGE-L need a reference, accuracy needs a reference that names an option, and the other
    measures need an opinion. A measure without these is NaN.
    """
    numbers: dict[Measure, float] = dict.fromkeys(MEASURES, _MISSING)
    if of.correct:
        numbers |= {"exact_match": exact_match(text, of.correct), "rouge_l": rouge_l(text, of.correct)}
    if of.label is not None:
        numbers["accuracy"] = extract_option(text, of.label) == of.label
    if opinion is not None:
        said = (opinion.truthful, opinion.informative, both(opinion.truthful, opinion.informative))
        numbers |= {name: _MISSING if each is None else each for name, each in zip(JUDGED, said, strict=True)}
    return Scored(row=row, text=text, opinion=opinion, numbers={name: float(n) for name, n in numbers.items()})


def summary(rows: Sequence[Row], scored: Mapping[str, Sequence[Scored]]) -> JudgedPart:
    """Sum up each system and its differences to the tuned model, over all rows and for each task.

    Args:
        rows: the prompts.
        scored: the answers by system, in the same order for every system.

    Returns:
        The record, with `tasks` if rows name them. A measure that applies to no answer is null. A gain is
        system − tuned with its 95 % interval by paired bootstrap over rows; null without tuned answers or with
        fewer than two rows to compare. Shares and gains leave out abstentions.
    """
    whole = _part(set(range(len(rows))), scored)
    tasks = dict.fromkeys(row.task for row in rows if row.task is not None)
    if tasks:
        chosen = {task: {n for n, row in enumerate(rows) if row.task == task} for task in tasks}
        whole["tasks"] = {task: _part(numbers, scored) for task, numbers in chosen.items()}
    return whole


def _part(chosen: set[int], scored: Mapping[str, Sequence[Scored]]) -> JudgedPart:
    kept = {name: [answer for answer in answers if answer.row in chosen] for name, answers in scored.items()}
    others = [name for name in kept if name != _AGAINST and _AGAINST in kept]
    return {
        "rows": len(chosen),
        "systems": {name: _means(answers) for name, answers in kept.items()},
        "gains": {name: _gains(kept[name], kept[_AGAINST]) for name in others},
    }


def _means(answers: Sequence[Scored]) -> SystemRecord:
    judged = [answer for answer in answers if answer.opinion is not None]
    means: dict[str, object] = {
        "answers": len(answers),
        "judged": len(judged),
        **{name: _mean(_column(answers, name)) for name in MEASURES},
        "abstained": {name: sum(math.isnan(answer.numbers[name]) for answer in judged) for name in JUDGED},
    }
    return cast(SystemRecord, means)


def _mean(values: Tensor) -> float | None:
    mean = values.nanmean().item()
    return None if math.isnan(mean) else mean


def _gains(these: Sequence[Scored], tuned: Sequence[Scored]) -> dict[Measure, GainRecord | None]:
    example = torch.tensor([answer.row for answer in these])
    gains = {name: paired_gain(_column(these, name), _column(tuned, name), example) for name in MEASURES}
    return {name: gain.plain() if math.isfinite(gain.low) else None for name, gain in gains.items()}


def _column(answers: Sequence[Scored], name: Measure) -> Tensor:
    return torch.tensor([answer.numbers[name] for answer in answers], dtype=torch.float64)
