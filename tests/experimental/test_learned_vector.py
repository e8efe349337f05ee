"""The learned vector: its map, its slopes, and what training does."""

import pytest
import torch

from svd_lightning.data import ScoringCollator
from svd_lightning.errors import InputError
from svd_lightning.experimental import LearnedVector, learned_direction
from svd_lightning.experimental.learned_vector import (
    leave_one_out,
    nll_loss,
    nll_step,
    reinforce_loss,
    reward_step,
    train,
)
from svd_lightning.experimental.sampling import LabelLogits, label_logits
from svd_lightning.metrics import exact_match

F, G = 9, 10  # the words of the answers


def found(base, rows):
    return label_logits(base, ScoringCollator(pad_token_id=0)(rows))


def test_the_map_is_the_matrix_of_the_slides():
    a = torch.randn(7, dtype=torch.float64)
    matrix = torch.diag(a) - torch.outer(a, a)
    torch.testing.assert_close(learned_direction(a, 1.7), matrix @ torch.full((7,), 1.7, dtype=torch.float64))


def test_slopes_against_finite_differences():
    logits, labels = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, 3, 3, 6, 1])
    tokens = LabelLogits(logits, labels, torch.tensor([0, 0, 1, 2, 2]))
    advantages = torch.tensor([0.5, -1.0, 0.5], dtype=torch.float64)
    a = (0.3 * torch.randn(7, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: nll_loss(learned_direction(a, 1.3), tokens), a)
    assert torch.autograd.gradcheck(lambda a: reinforce_loss(learned_direction(a, 1.3), tokens, advantages), a)


def test_the_slope_at_the_start_is_that_in_the_logits(base, rows):
    """∂K/∂a = λ · mean(p − e_y) at a = 0."""
    vector, tokens = LearnedVector(14, scale=2.0), found(base, rows)
    nll_loss(vector(), tokens).backward()
    expected = tokens.logits.softmax(-1)
    expected[torch.arange(len(tokens.labels)), tokens.labels] -= 1.0
    torch.testing.assert_close(vector.a.grad, 2.0 * expected.mean(dim=0))


def test_logits_of_labels_are_those_of_each_row_alone(base, rows):
    tokens = found(base, rows)
    alone = [
        base(torch.cat([row.prompt_ids, row.completion_ids])[None]).logits[0, len(row.prompt_ids) - 1 : -1]
        for row in rows
    ]
    torch.testing.assert_close(tokens.logits, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert tokens.labels.tolist() == torch.cat([row.completion_ids for row in rows]).tolist()


def test_training_by_nll_lowers_it_and_leaves_the_base_alone(base, rows):
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    vector, tokens = LearnedVector(14), found(base, rows)
    start = nll_loss(vector(), tokens).item()
    means = train(
        vector, rows, nll_step(base, vector, pad_token_id=0), epochs=60, batch_size=4, learning_rate=0.05
    )
    end = nll_loss(vector(), tokens).item()
    assert end < start - 0.2
    assert means[-1] < means[0]
    assert all(weight.equal(before[name]) for name, weight in base.state_dict().items())


def test_training_by_nll_finds_the_best_vector(base, rows):
    """The NLL is convex in the logits' vector: where a can get there, it gets there."""
    tokens = found(base, rows)
    best = torch.zeros(14, requires_grad=True)
    search = torch.optim.LBFGS([best], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        search.zero_grad()
        loss = nll_loss(best, tokens) + 1e-3 * best.square().sum()
        loss.backward()
        return loss

    search.step(closure)
    vector = LearnedVector(14, scale=1.0)
    train(vector, rows, nll_step(base, vector, pad_token_id=0), epochs=300, batch_size=12, learning_rate=0.05)
    assert nll_loss(vector(), tokens).item() <= nll_loss(best, tokens).item() + 0.02


def expected_reward(base, rows, vector):
    """E[reward] exactly, for answers of one token of which one is right."""
    tokens = found(base, rows)
    firsts = [int((tokens.rows == row).nonzero()[0]) for row in range(len(rows))]
    p = (tokens.logits[firsts] + vector()).softmax(-1)
    return p[torch.arange(len(rows)), tokens.labels[firsts]].mean()


def test_the_reinforce_gradient_is_that_of_the_expected_reward(base, rows):
    """Averaged over every answer with its probability, leave-one-out baselines being of mean zero."""
    vector = LearnedVector(14)
    with torch.no_grad():
        vector.a.copy_(0.1 * torch.randn(14, generator=torch.Generator().manual_seed(1)))
    expected_reward(base, rows[:1], vector).backward()
    exact, vector.a.grad = vector.a.grad.clone(), None
    tokens = found(base, rows[:1])
    logits, label = tokens.logits[0], int(tokens.labels[0])
    p = (logits + vector()).softmax(-1).detach()
    pairs = torch.cartesian_prod(torch.arange(14), torch.arange(14))  # every two samples
    rewards = (pairs == label).float()
    weights = (p[pairs[:, 0]] * p[pairs[:, 1]])[:, None]
    answers = LabelLogits(logits.expand(2 * len(pairs), 14), pairs.flatten(), torch.arange(2 * len(pairs)))
    advantages = (leave_one_out(rewards) * weights * len(pairs)).flatten()
    reinforce_loss(vector(), answers, advantages).backward()
    torch.testing.assert_close(-vector.a.grad, exact, rtol=1e-4, atol=1e-6)


def test_reinforce_raises_the_expected_reward(base, rows, word_tokenizer):
    """A toy: the reward is 1 for the right word, and the answer is one word long."""
    torch.manual_seed(0)
    vector = LearnedVector(14)
    before = expected_reward(base, rows, vector).item()
    step = reward_step(base, word_tokenizer, vector, exact_match, samples=16, max_new_tokens=1)
    means = train(vector, rows, step, epochs=25, batch_size=6, learning_rate=0.1)
    assert expected_reward(base, rows, vector).item() > before + 0.2
    assert sum(means[-5:]) > sum(means[:5])


def test_a_reward_that_is_no_number_is_refused(base, rows, word_tokenizer):
    ways = {"samples": 2, "max_new_tokens": 1}
    step = reward_step(base, word_tokenizer, LearnedVector(14), lambda *_: float("nan"), **ways)
    with pytest.raises(InputError, match="reward: expected finite numbers"):
        step(rows[:2])


@pytest.mark.parametrize("rewards", [[[1.0, 1.0, 1.0]], [[0.0, 0.0]]])
def test_equal_rewards_teach_nothing(rewards):
    assert leave_one_out(torch.tensor(rewards)).abs().sum().item() == 0.0
