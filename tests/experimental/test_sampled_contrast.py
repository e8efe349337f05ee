"""Sampled contrast against a loop over positions, each with a forward of its own."""

import torch

from svd_lightning.experimental import Contrast, pair_direction
from svd_lightning.experimental.sampling import Answers, sample_answers
from svd_lightning.functional import kl_gradient

PROMPT = torch.tensor([1, 4, 6])


def next_logits(base, *parts):
    return base(torch.cat(parts).unsqueeze(0)).logits[0, -1]


def slow_direction(base, near, far):
    total, positions = torch.zeros(14), 0
    for t in range(min(len(near), len(far))):
        if near[:t].tolist() != far[:t].tolist():
            total += kl_gradient(next_logits(base, PROMPT, near[:t]), next_logits(base, PROMPT, far[:t]))
            positions += 1
    return total, positions


def test_a_pair_position_by_position(base):
    for near, far in (
        ([5, 7, 8, 2], [6, 6, 4]),
        ([5, 7, 8, 2], [5, 7, 4, 9, 2]),
        ([5, 2], [6, 2]),
    ):
        near, far = torch.tensor(near), torch.tensor(far)
        direction, positions = pair_direction(base, PROMPT, near, far)
        expected, count = slow_direction(base, near, far)
        torch.testing.assert_close(direction, expected, rtol=1e-4, atol=1e-6)
        assert positions == count > 0


def test_no_position_differs(base):
    for near, far in (([5], [6]), ([5, 6], [5, 6]), ([5, 6], [5, 6, 7])):
        direction, positions = pair_direction(base, PROMPT, torch.tensor(near), torch.tensor(far))
        assert (positions, direction.abs().sum().item()) == (0, 0.0)


def test_the_mean_over_examples_and_positions(base):
    near, far, middle = torch.tensor([5, 7, 8]), torch.tensor([6, 6, 4]), torch.tensor([9, 9])
    contrast = Contrast(14)
    contrast.add(base, PROMPT, "b d", Answers([middle, near, far], ["b", "b d", "c c"]))
    contrast.add(base, PROMPT, "c c", Answers([far, near], ["c c", "b d"]))
    contrast.add(base, PROMPT, "x", Answers([far, near], ["c c", "b d"]))
    one, count = slow_direction(base, near, far)
    other, as_many = slow_direction(base, far, near)
    torch.testing.assert_close(contrast.direction(), (one + other) / (count + as_many), rtol=1e-4, atol=1e-6)
    assert (contrast.examples, contrast.skipped, contrast.positions) == (2, 1, count + as_many)


def test_nothing_to_compare_is_no_direction():
    assert Contrast(3).direction().tolist() == [0.0, 0.0, 0.0]


def test_samples_come_from_the_base_and_end_at_eos(base, rows, word_tokenizer):
    # what a hub model may bring
    base.generation_config.update(top_k=1, repetition_penalty=9.0, temperature=0.1, eos_token_id=[2, 7])
    torch.manual_seed(0)
    found = sample_answers(base, word_tokenizer, rows[:2], samples=4000, max_new_tokens=3)
    for row, answers in zip(rows[:2], found, strict=True):
        first = torch.tensor([ids[0] for ids in answers.ids])
        share = torch.bincount(first, minlength=14) / len(first)
        torch.testing.assert_close(share, next_logits(base, row.prompt_ids).softmax(-1), rtol=0.0, atol=0.03)
        assert not any(stop in ids[:-1] for ids in answers.ids for stop in (2, 7))
        assert {len(ids) for ids in answers.ids} <= {1, 2, 3}
