"""Every number of a position against two separate models, unpadded forwards and plain float64 arithmetic."""

import math

import pytest
import torch

from svd_lightning.commands.inspect import Triple, inspect_prompt
from svd_lightning.commands.inspect.positions import positions
from svd_lightning.steering import Entropy, KLGradient, NaturalGradient, Steering
from tests.decoding import zoo

STEERINGS = {
    "paper": Steering(strengths=[6.0]),
    "finite penalty": Steering(strengths=[-3.0], penalty=-1.0, alpha=0.3),
    "no mask": Steering([NaturalGradient()], [0.7], alpha=None),
    "contextual": Steering([KLGradient()], [2.0, 5.0], features=[Entropy()]),
}


def entropy(p):
    return -sum(x * math.log(x) for x in p if x > 0)


def kl(p, q):
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def best(p, count):
    return sorted(range(len(p)), key=lambda token: -p[token])[:count]


@torch.no_grad()
def next_token(adapter, steering, ids):
    """Base, tuned and steered probabilities of what follows, as lists."""
    row = torch.tensor([ids])
    tuned = zoo.tuned_model("llama", adapter)(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -1]
    base = zoo.base_model("llama")(input_ids=row).logits[0, -1]
    logits = Triple(base, tuned, steering(tuned[None], base[None])[0])
    return Triple(*(torch.softmax(part.double(), dim=-1).tolist() for part in logits))


def check(position, p, steering, top):
    """One position against the three distributions."""
    alpha, outside = steering.alpha, math.exp(steering.penalty)
    inside = [alpha is None or x >= alpha * max(p.tuned) for x in p.tuned]
    wanted = set().union(*(best(part, top) for part in p), {position.chosen.token})
    assert {one.token for one in position.ranked} == wanted
    for one in position.ranked:
        assert one.probability == pytest.approx([part[one.token] for part in p], abs=1e-5)
        assert one.confident is inside[one.token]
    steered = [one.probability.steered for one in position.ranked]
    assert steered == sorted(steered, reverse=True)
    assert position.chosen in position.ranked
    assert list(position.rank) == [1 + sum(x > part[position.chosen.token] for x in part) for part in p]
    assert list(position.first) == [best(part, 1)[0] for part in p]
    assert position.flipped is (best(p.steered, 1) != best(p.tuned, 1))
    assert position.mask_size == sum(inside)
    assert position.shift == pytest.approx(kl(p.steered, p.tuned), abs=1e-4)
    masked = [x if keep else outside * x for x, keep in zip(p.tuned, inside, strict=True)]
    alone = kl([x / sum(masked) for x in masked], p.tuned)
    assert position.mask_shift == pytest.approx(alone, abs=1e-4)
    assert position.divergence == pytest.approx(kl(p.tuned, p.base), abs=1e-4)
    assert list(position.entropy) == pytest.approx([entropy(part) for part in p], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "adapter"), [*((name, "lora") for name in STEERINGS), ("paper", "prompt"), ("paper", "dora")]
)
def test_positions_are_those_of_two_separate_models(name, adapter, word_tokenizer):
    steering = STEERINGS[name]
    found = inspect_prompt(
        zoo.tuned_model("llama", adapter), word_tokenizer, steering, "a b c", max_new_tokens=6, top=4
    )
    ids = word_tokenizer("a b c").input_ids
    assert len(found.positions) == 6 or found.positions[-1].chosen.token == zoo.EOS
    for position in found.positions:
        check(position, next_token(adapter, steering, ids), steering, 4)
        assert position.rank.steered == 1, "greedy takes the likeliest"
        ids.append(position.chosen.token)


def test_some_choices_are_flipped_and_some_are_not(word_tokenizer):
    found = inspect_prompt(
        zoo.tuned_model(), word_tokenizer, STEERINGS["paper"], "a b c d", completion="e f g h a b c d"
    )
    assert 0 < found.flips < len(found.positions)


def test_what_the_penalty_forbids_has_probability_zero(word_tokenizer):
    text = "e f g h a b c d"
    found = inspect_prompt(zoo.tuned_model(), word_tokenizer, STEERINGS["paper"], "a b", completion=text)
    outside = [one for position in found.positions for one in position.ranked if not one.confident]
    assert outside
    assert {one.probability.steered for one in outside} == {0.0}
    assert any(not position.chosen.confident for position in found.positions)


def test_forbidden_logits_and_ties():
    """−∞ in either model leaves every number finite; sharing the tuned model's first place is no flip."""
    inf = math.inf
    base = torch.tensor([[0.0, -inf, 1.0], [0.0, 0.0, 0.0]])
    tuned = torch.tensor([[2.0, 2.0, -inf], [0.0, 0.0, -1.0]])
    steered = torch.tensor([[-inf, 0.0, -inf], [0.0, -1.0, 5.0]])
    one, two = positions(Triple(base, tuned, steered), torch.tensor([1, 2]), None)
    assert not one.flipped
    assert two.flipped
    assert one.entropy.steered == 0.0
    assert math.copysign(1.0, one.entropy.steered) == 1.0
    assert one.shift == pytest.approx(math.log(2), abs=1e-6)
    assert one.divergence > 1000
    assert one.mask_size == 3
    assert [candidate.probability.tuned for candidate in one.ranked] == pytest.approx([0.5, 0.5, 0.0])
