"""What every feature must hold. Features are found by inspection: a new class is tested without a list."""

import importlib
import inspect
import math
import pkgutil

import pytest
import torch

import svd_lightning.steering as package
from svd_lightning.functional import log_probabilities
from svd_lightning.objective import TokenCollector
from svd_lightning.steering import BUILT_IN_FEATURES, Feature, KLGradient, feature_name
from tests.objective import reference


def discover():
    """Every class with `value` that a module of svd_lightning.steering defines."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for _, member in inspect.getmembers(module, inspect.isclass):
            if member.__module__ == module.__name__ and member is not Feature and hasattr(member, "value"):
                yield member


FEATURES = list(discover())
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
EVERY_FEATURE = pytest.mark.parametrize("feature", [cls() for cls in FEATURES], ids=feature_name)


def logits(*shape, dtype=torch.float64, spread=3.0):
    generator = torch.Generator().manual_seed(7)
    tuned, noise = spread * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return tuned.to(dtype), (tuned + 0.5 * noise).to(dtype)


def value(feature, tuned, base):
    return feature.value(log_probabilities(tuned), log_probabilities(base))


def test_the_package_has_features_and_exports_them():
    assert set(FEATURES) == set(BUILT_IN_FEATURES)
    assert {cls.__name__ for cls in FEATURES} <= set(package.__all__)


@EVERY_FEATURE
def test_is_a_documented_feature(feature):
    assert isinstance(feature, Feature)
    assert inspect.getdoc(type(feature))


@EVERY_FEATURE
def test_one_number_per_position(feature):
    tuned, base = logits(2, 3, 19)
    whole = value(feature, tuned, base)
    assert whole.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(whole[i, j], value(feature, tuned[i, j], base[i, j]))


@EVERY_FEATURE
@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 300.0])
def test_lies_between_0_and_1_whatever_the_data(feature, spread):
    found = value(feature, *logits(50, 19, spread=spread))
    assert (found >= 0.0).all()
    assert (found <= 1.0 + 1e-12).all()


@EVERY_FEATURE
def test_blind_to_shifts_and_to_the_order_of_the_vocabulary(feature):
    tuned, base = logits(20, 19)
    order = torch.randperm(19, generator=torch.Generator().manual_seed(0))
    expected = value(feature, tuned, base)
    torch.testing.assert_close(value(feature, tuned + 5.0, base - 31.0), expected)
    torch.testing.assert_close(value(feature, tuned[:, order], base[:, order]), expected)


@EVERY_FEATURE
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_finite_and_wide_where_a_model_forbids_tokens(feature, dtype):
    tuned, base = logits(3, 19, dtype=dtype)
    base[:, ::2] = -math.inf
    base[1, 2:] = -math.inf  # leaves one token
    tuned[2, 5] = -math.inf
    found = value(feature, tuned, base)
    assert found.isfinite().all()
    assert found.dtype == torch.promote_types(dtype, torch.float32)


@EVERY_FEATURE
def test_one_token_in_the_vocabulary(feature):
    assert value(feature, torch.zeros(2, 1), torch.ones(2, 1)).isfinite().all()


@EVERY_FEATURE
def test_the_table_holds_what_decoding_sees(feature):
    data = reference.tokens().to(torch.float32)
    metric = TokenCollector([KLGradient()], features=[feature])
    for start in range(0, len(data), 7):
        data[start : start + 7].update(metric)
    kept = metric.compute().centres[:, 1]
    whole = value(feature, data.tuned, data.base)  # in one call, as the decoding engine has a batch
    torch.testing.assert_close(kept, whole, rtol=1e-6, atol=1e-7)


@EVERY_FEATURE
def test_varies_and_leaves_its_arguments_alone(feature):
    log_p, log_q = map(log_probabilities, logits(60, 19))
    before = log_p.clone(), log_q.clone()
    assert feature.value(log_p, log_q).std() > 0.01
    assert torch.equal(log_p, before[0])
    assert torch.equal(log_q, before[1])
