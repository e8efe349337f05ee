"""The metrics of choices written out in plain Python, one question at a time; and random questions."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from svd_lightning.metrics import Completions, MultipleChoice

NAMES = ("base", "tuned")


@dataclass
class Question:
    number: int
    scores: Mapping[str, Sequence[float]]  # by distribution, one per choice
    tokens: list[int]
    correct: list[int]
    best: int


def expected(question: Question, name: str, *, normalised: bool) -> dict[str, float]:
    scores = list(question.scores[name])
    if normalised:
        scores = [score / count for score, count in zip(scores, question.tokens, strict=True)]
    true = [score for number, score in enumerate(scores) if number in question.correct]
    false = [score for number, score in enumerate(scores) if number not in question.correct]
    peak = max(scores)
    mass = [0.0 if score == -math.inf else math.exp(score - peak) for score in scores]
    return {
        "MC1": float(all(scores[question.best] > other for other in false)),
        "MC2": sum(mass[number] for number in question.correct) / sum(mass) if any(mass) else 0.0,
        "MC3": sum(all(score > other for other in false) for score in true) / len(true),
        "accuracy": float(any(all(score > other for other in false) for score in true)),
    }


def random_questions(count: int, *, seed: int = 0) -> list[Question]:
    """With one to nine choices, some of them tied, some impossible."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        choices = draw.randint(1, 9)
        correct = sorted(draw.sample(range(choices), draw.randint(1, choices)))
        scores = {
            name: [
                draw.choice([-math.inf, -2.0, *(draw.uniform(-40, 0) for _ in range(6))]) for _ in range(choices)
            ]
            for name in NAMES
        }
        tokens = [draw.randint(1, 12) for _ in range(choices)]
        found.append(Question(number, scores, tokens, correct, draw.choice(correct)))
    return found


def add(metric: MultipleChoice, questions: list[Question]) -> None:
    """One update with all the questions' choices."""
    rows = [(q, option) for q in questions for option in range(len(q.tokens))]
    if not rows:
        return
    metric.update(
        torch.tensor([q.number for q, _ in rows]),
        torch.tensor([option for _, option in rows]),
        correct=torch.tensor([option in q.correct for q, option in rows]),
        best=torch.tensor([option == q.best for q, option in rows]),
        tokens=torch.tensor([q.tokens[option] for q, option in rows]),
        sums={name: torch.tensor([q.scores[name][option] for q, option in rows]) for name in metric.names},
    )


def add_tokens(metric: Completions, rows: list[tuple[int, int]]) -> None:
    """Tokens (example, position) whose numbers follow from their place."""
    if not rows:
        return
    example, position = torch.tensor(rows).T
    log_probs = {name: -(example + position / 7 + k).double() for k, name in enumerate(metric.names)}
    kl = {name: (k * position / 3).double() for k, name in enumerate(metric.names)}
    metric.update(example, position, log_probs=log_probs, kl=kl)
