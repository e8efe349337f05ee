"""What every steering rule must hold. Rules are found by inspection: a new class is tested without a list."""

import importlib
import inspect
import math
import pkgutil

import pytest
import torch

import svd_lightning.steering as package
from svd_lightning.functional import log_probabilities
from svd_lightning.steering import BUILT_IN_RULES, Contextual, SteeringRule


def discover():
    """Every class with `centre` and `direction` that a module of svd_lightning.steering defines."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for _, member in inspect.getmembers(module, inspect.isclass):
            own = member.__module__ == module.__name__ and member not in (SteeringRule, Contextual)
            if own and hasattr(member, "centre") and hasattr(member, "direction"):
                yield member


RULES = list(discover())
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
EVERY_RULE = pytest.mark.parametrize("rule", [cls() for cls in RULES], ids=[cls.__name__ for cls in RULES])


def logits(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    tuned, base = 3.0 * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return tuned.to(dtype), base.to(dtype)


def direction(rule, tuned, base):
    log_p, log_q = log_probabilities(tuned), log_probabilities(base)
    return rule.direction(log_p, log_q, rule.centre(log_p, log_q).unsqueeze(-1))


def test_the_package_has_rules_and_exports_them():
    assert set(RULES) == set(BUILT_IN_RULES)
    assert {cls.__name__ for cls in RULES} <= set(package.__all__)


@EVERY_RULE
def test_is_a_documented_steering_rule(rule):
    assert isinstance(rule, SteeringRule)
    assert inspect.getdoc(type(rule))


@EVERY_RULE
def test_one_centre_per_position_and_one_number_per_token(rule):
    tuned, base = logits(2, 3, 19)
    log_p, log_q = log_probabilities(tuned), log_probabilities(base)
    centre = rule.centre(log_p, log_q)
    assert centre.shape == (2, 3)
    whole = rule.direction(log_p, log_q, centre.unsqueeze(-1))
    assert whole.shape == (2, 3, 19)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(whole[i, j], direction(rule, tuned[i, j], base[i, j]))


@EVERY_RULE
def test_direction_on_a_subset_equals_the_whole_gathered(rule):
    log_p, log_q = map(log_probabilities, logits(5, 23))
    centre = rule.centre(log_p, log_q).unsqueeze(-1)
    subset = torch.tensor([[0, 22, 7], [1, 1, 2], [3, 4, 5], [22, 21, 20], [9, 8, 7]])
    torch.testing.assert_close(
        rule.direction(log_p.gather(-1, subset), log_q.gather(-1, subset), centre),
        rule.direction(log_p, log_q, centre).gather(-1, subset),
    )


@EVERY_RULE
def test_order_of_the_vocabulary_does_not_matter(rule):
    tuned, base = logits(23)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(direction(rule, tuned[order], base[order]), direction(rule, tuned, base)[order])


@EVERY_RULE
def test_blind_to_shifts_of_the_logits(rule):
    tuned, base = logits(4, 19)
    torch.testing.assert_close(direction(rule, tuned + 5.0, base - 31.0), direction(rule, tuned, base))


@EVERY_RULE
def test_vanishes_where_the_models_agree_if_it_looks_at_the_base(rule):
    tuned, base = logits(4, 19)
    looks = not torch.equal(direction(rule, tuned, base), direction(rule, tuned, base.flip(-1)))
    agreeing = direction(rule, tuned, tuned + 2.0)
    if looks:
        torch.testing.assert_close(agreeing, torch.zeros_like(agreeing), rtol=0, atol=1e-12)
    else:
        assert torch.equal(agreeing, direction(rule, tuned, base))


@EVERY_RULE
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_finite_where_a_model_forbids_tokens(rule, dtype):
    tuned, base = logits(3, 19, dtype=dtype)
    base[:, ::2] = -math.inf
    base[1, 2:] = -math.inf  # leaves one token
    tuned[2, 5] = -math.inf
    assert torch.isfinite(direction(rule, tuned, base)).all()


@EVERY_RULE
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_works_in_float32_or_wider(rule, dtype):
    tuned, base = logits(3, 19, dtype=dtype)
    got = direction(rule, tuned, base)
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    exact = direction(rule, tuned.double(), base.double())
    torch.testing.assert_close(got.double(), exact, rtol=2e-6, atol=1e-5)


@EVERY_RULE
def test_leaves_its_arguments_alone(rule):
    log_p, log_q = map(log_probabilities, logits(3, 19))
    before = log_p.clone(), log_q.clone()
    rule.direction(log_p, log_q, rule.centre(log_p, log_q).unsqueeze(-1))
    assert torch.equal(log_p, before[0])
    assert torch.equal(log_q, before[1])
