"""The choice among options: against autograd on the whole vocabulary, and against known minima."""

import pytest
import torch

from svd_lightning.metrics import Options
from svd_lightning.objective import ChoiceObjective, Choices, Evaluation, objective
from svd_lightning.strength import LineSearch
from svd_lightning.strength.solver import minimise_all
from tests.objective import reference

RULES = reference.RULES[:2]
ALPHA = 0.1


def asked(questions=20, options=4, *, seed=0):
    """Each question with options of three tokens; the first two options of every third question are right."""
    data = reference.tokens(3 * questions * options, seed=seed)
    question = torch.arange(questions).repeat_interleave(options)
    place = torch.arange(options).repeat(questions)
    correct = (place == 0) | ((place == 1) & (question % 3 == 0))
    choices = Choices(
        torch.arange(questions) * 7, torch.arange(len(question)), Options(question, correct, place == 0)
    )
    return data, choices


def problem(data, choices, rules=RULES, *, penalty=0.0, streamed=False):
    """The objective; the right answers are the tokens of each question's first option."""
    mine = data[choices.options.best[data.example]]
    numbers = choices.number[choices.options.question[mine.example]]
    answers = reference.Tokens(mine.tuned, mine.base, mine.labels, numbers, mine.position)
    make = reference.stream if streamed else lambda tokens: reference.table(tokens, alpha=ALPHA)
    parts = (objective(make(tokens), rules, penalty=penalty) for tokens in (data, answers))
    return ChoiceObjective(choices, rules, *parts)


def slow(strengths, data, choices, rules=RULES, *, penalty=0.0, alpha=ALPHA, keep=None):
    """K from the whole vocabulary, differentiable; a question at a time."""
    log_probs = reference.label_log_probs(strengths, data, rules, alpha=alpha, penalty=penalty)
    losses = []
    for place in range(len(choices.number)) if keep is None else keep:
        rows = (choices.options.question == place).nonzero().flatten().tolist()
        scores = torch.stack([log_probs[data.example == row].sum() for row in rows])
        losses.append(-scores.log_softmax(0)[choices.options.correct[rows]].logsumexp(0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("penalty", [0.0, -2.0])
@pytest.mark.parametrize("strengths", [[0.0, 0.0], [3.0, -0.4], [-8.0, 0.9]])
def test_value_gradient_and_hessian_against_autograd(strengths, penalty):
    data, choices = asked()
    at = torch.tensor(strengths, dtype=torch.float64)

    def loss(mu):
        return slow(mu, data, choices, penalty=penalty)

    found = problem(data, choices, penalty=penalty).evaluate(at)
    value, gradient = torch.autograd.functional.vjp(loss, at)
    assert found.nll == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.hessian, torch.autograd.functional.hessian(loss, at), rtol=1e-4, atol=1e-4)


def test_a_stream_says_the_same_without_a_mask():
    data, choices = asked(8)
    at = torch.tensor([1.5, 0.2], dtype=torch.float64)
    found = problem(data, choices, streamed=True).evaluate(at)
    assert found.nll == pytest.approx(slow(at, data, choices, alpha=None).item(), rel=1e-6)
    hessian = torch.autograd.functional.hessian(lambda mu: slow(mu, data, choices, alpha=None), at)
    torch.testing.assert_close(found.hessian, hessian, rtol=1e-4, atol=1e-5)


def test_folds_and_parts_are_the_questions_alone():
    data, choices = asked()
    at, some = torch.tensor([2.0, 0.3], dtype=torch.float64), choices.number[2:9]
    whole = problem(data, choices)
    expected = slow(at, data, choices, keep=range(2, 9)).item()
    fold, part = whole.counting(some, start=at), whole.restricted(some)
    assert fold.evaluate(at).nll == pytest.approx(expected, rel=1e-5)
    assert part.evaluate(at).nll == pytest.approx(expected, rel=1e-5)
    assert fold.examples.tolist() == part.examples.tolist() == some.tolist()
    torch.testing.assert_close(part.label_log_probs(at), whole.label_log_probs(at)[2:9])
    fold, part = (
        problem(data, choices, RULES[:1]).counting(some, start=at[:1]),
        problem(data, choices, RULES[:1]).restricted(some),
    )
    assert torch.equal(fold.terms().inner, part.terms().inner)


def test_an_option_without_tokens_of_its_own_scores_0():
    """Where one option begins another, what they share is no token of either."""
    data, choices = asked(6)
    kept = data[data.example != 3]
    at = torch.tensor([2.0, 0.3], dtype=torch.float64)
    found = problem(kept, choices)
    assert found.option_scores(at)[3] == 0.0
    whole = problem(data, choices).option_scores(at)
    others = torch.arange(len(whole)) != 3
    torch.testing.assert_close(found.option_scores(at)[others], whole[others])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_the_search_finds_the_lowest_point_of_a_grid(rule):
    for seed in range(6):
        data, choices = asked(6, 3, seed=seed)
        one = problem(data, choices, [rule])
        grid = torch.linspace(-6.0, 6.0, 241, dtype=torch.float64)
        lowest = min(one.evaluate(mu.view(1)).nll for mu in grid)
        found = torch.tensor(LineSearch(tolerance=1e-8)(one).strengths, dtype=torch.float64)
        assert one.evaluate(found).nll <= lowest + 1e-4


class DoubleWell:
    """(μ² − 1)² + 0.3 μ: minima near −1 and +1, a maximum near 0; H < 0 between."""

    num_directions, contextual = 1, torch.tensor([False])
    start = torch.tensor([-0.2], dtype=torch.float64)

    def evaluate(self, strengths):
        [mu] = strengths.tolist()
        slope, curvature = 4 * mu * (mu * mu - 1) + 0.3, 12 * mu * mu - 4
        value = (mu * mu - 1) ** 2 + 0.3 * mu
        return Evaluation(value, torch.tensor([slope]).double(), torch.tensor([[curvature]]).double())


def test_a_search_goes_downhill_where_the_curvature_is_negative():
    [found] = minimise_all([DoubleWell()], bound=10.0, tolerance=1e-9)
    assert found.converged
    assert found.strengths.item() == pytest.approx(-1.0354, abs=1e-3)
    assert found.hessian.item() > 0.0
