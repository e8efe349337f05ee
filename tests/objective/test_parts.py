"""A part of an objective: what its examples alone say, with and without a mask."""

import math

import pytest
import torch

from svd_lightning.objective import objective
from svd_lightning.objective.quantities import Steered
from tests.objective import reference

MINE = torch.tensor([1, 2, 5, 7])
SOME = torch.tensor([2, 7])
STRENGTHS = torch.tensor([0.7, -0.4], dtype=torch.float64)
RULES = reference.RULES[:2]
KINDS = {
    "masked": lambda data: objective(reference.table(data), RULES, penalty=-1.0),
    "forbidding": lambda data: objective(reference.table(data), RULES, penalty=-math.inf),
    "streamed": lambda data: objective(reference.stream(data, chunk=5), RULES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_the_objective_of_its_examples(kind):
    data = reference.tokens(30)
    mine = torch.isin(data.example, MINE)
    part, alone = KINDS[kind](data).restricted(MINE), KINDS[kind](data[mine])
    torch.testing.assert_close(part.label_log_probs(STRENGTHS), alone.label_log_probs(STRENGTHS))
    assert part.examples.tolist() == alone.examples.tolist()
    assert part.divergence(STRENGTHS) == pytest.approx(alone.divergence(STRENGTHS))
    for found, expected in (
        (part, alone),
        (part.counting(SOME, start=STRENGTHS), alone.counting(SOME, start=STRENGTHS)),
        (part.counting(SOME, start=STRENGTHS), KINDS[kind](data).counting(SOME, start=STRENGTHS)),
    ):
        for one, other in zip(found.evaluate(STRENGTHS), expected.evaluate(STRENGTHS), strict=True):
            torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other))


def test_the_vocabulary_is_gone_through_for_the_part_alone(monkeypatch):
    seen = []
    stream = reference.stream(reference.tokens(30), chunk=5)
    problem = objective(stream, RULES)
    stream.label_log_p  # noqa: B018  the first pass is about the labels too
    measure = Steered.measure
    monkeypatch.setattr(
        Steered, "measure", lambda self, view: (seen.append(len(view.labels)), measure(self, view))[1]
    )
    problem.restricted(MINE).evaluate(STRENGTHS)
    assert sum(seen) == 3 * len(MINE)
    problem.evaluate(STRENGTHS)
    assert sum(seen) == 3 * len(MINE) + 30
