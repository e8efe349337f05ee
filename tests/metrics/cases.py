"""Samples of every metric, one entry per class name: what `update` takes, a sample at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    samples: tuple[dict[str, Any], ...]
    """Arguments of `update`, each for one answer, question or token."""
    arguments: tuple[Any, ...] = ()
    """Of the constructor."""


def join(samples):
    """The arguments of `update` for several samples at once."""
    return {name: _joined([sample[name] for sample in samples]) for name in samples[0]}


def _joined(parts):
    if isinstance(parts[0], Mapping):
        return join(parts)
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [one for part in parts for one in part]


def _question(number, scores):
    count = torch.arange(len(scores))
    return {
        "question": torch.full_like(count, number),
        "option": count,
        "correct": count == number % len(scores),
        "best": count == number % len(scores),
        "tokens": count + 1,
        "sums": {"tuned": torch.tensor(scores), "steered": -torch.tensor(scores).flip(0)},
    }


def _token(example, position, log_p):
    where = {"example": torch.tensor([example]), "position": torch.tensor([position])}
    return {**where, "log_probs": {"tuned": torch.tensor([log_p])}, "kl": {"tuned": torch.tensor([-log_p / 7])}}


def _answers(name, *pairs):
    return tuple({"answers": [answer], name: [known]} for answer, known in pairs)


_TEXTS = (("Lima", ["Lima"]), ("no idea", ["Lima"]), ("in Lima, Peru", ["Lima", "Cuzco, Peru"]), ("", ["Lima"]))
_OPTIONS = (("it is answer2", "answer2"), ("who knows", "answer1"), ("untrue", "true"), ("false", "true"))

CASES = {
    "Average": Case(tuple({"values": torch.tensor([value])} for value in (0.25, 1.0, -3.0, 0.0))),
    "Completions": Case(
        tuple(_token(*where) for where in ((0, 4, -0.5), (0, 5, -2.25), (1, 3, -0.125), (4, 9, -8.0))),
        (["tuned"],),
    ),
    "ExactMatch": Case(_answers("references", *_TEXTS)),
    "ExampleScores": Case(
        tuple(
            {"example": torch.tensor([number]), "log_probs": torch.tensor([value])}
            for number, value in ((3, -0.5), (0, -2.0), (7, -0.125), (4, -9.0))
        )
    ),
    "ExtractionAccuracy": Case(_answers("labels", *_OPTIONS)),
    "JudgedRate": Case(tuple({"opinions": [opinion]} for opinion in (True, False, None, True))),
    "MeanNLL": Case(tuple({"log_probabilities": torch.tensor([value])} for value in (-0.5, -2.0, -0.125, -9.0))),
    "MultipleChoice": Case(
        tuple(_question(i, s) for i, s in enumerate(([-1.0, -2.0], [-3.0, -2.5, -4.0], [-1.5, -1.0, -9.0]))),
        (["tuned", "steered"],),
    ),
    "RougeL": Case(_answers("references", *_TEXTS)),
}
