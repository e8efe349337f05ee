"""What every strength estimator must hold. Estimators are found by inspection: a new file needs no list."""

import importlib
import inspect
import math
import pkgutil

import pytest
import torch

import svd_lightning.strength as package
from svd_lightning.strength import Estimate, StrengthEstimator
from tests.objective import reference
from tests.strength.objectives import masked, streamed

ARGUMENTS = {"Fixed": ([0.5],)}
"""Constructor arguments of the estimators that cannot do without."""


def discover():
    """Every class that a module of svd_lightning.strength defines and that is called with an objective."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for _, member in inspect.getmembers(module, inspect.isclass):
            if member.__module__ != module.__name__ or member is StrengthEstimator or inspect.isabstract(member):
                continue
            call = inspect.getattr_static(member, "__call__", None)
            if call and "objective" in inspect.signature(call).parameters:
                yield member


ESTIMATORS = list(discover())
EVERY_ESTIMATOR = pytest.mark.parametrize(
    "estimator",
    [cls(*ARGUMENTS.get(cls.__name__, ())) for cls in ESTIMATORS],
    ids=[c.__name__ for c in ESTIMATORS],
)
EVERY_OBJECTIVE = pytest.mark.parametrize("kind", [masked, streamed])
POINT = torch.tensor([0.7], dtype=torch.float64)


def data():
    return reference.tokens(45)


def fingerprint(objective):
    """What an objective answers."""
    value = objective.evaluate(POINT)
    return [torch.as_tensor(value.nll), value.gradient, value.hessian, *objective.terms()]


def assert_close(found, expected, *, rel=1e-7):
    assert found.strengths == pytest.approx(expected.strengths, rel=rel, abs=rel)
    assert (found.skipped, found.warning) == (expected.skipped, expected.warning)


def test_the_package_has_estimators_and_exports_them():
    names = {cls.__name__ for cls in ESTIMATORS}
    assert {"Fixed", "LineSearch", "Mean", "Median", "Newton", "Sequence", "TrimmedMean"} <= names
    assert names <= set(package.__all__)


@EVERY_ESTIMATOR
def test_is_a_documented_estimator(estimator):
    assert isinstance(estimator, StrengthEstimator)
    assert inspect.getdoc(type(estimator))


@EVERY_ESTIMATOR
@EVERY_OBJECTIVE
def test_one_finite_strength_per_rule(estimator, kind):
    found = estimator(kind(data()))
    assert isinstance(found, Estimate)
    assert len(found.strengths) == 1
    assert all(type(strength) is float and math.isfinite(strength) for strength in found.strengths)


@EVERY_ESTIMATOR
@EVERY_OBJECTIVE
def test_is_a_pure_function(estimator, kind):
    objective = kind(data())
    before, options = fingerprint(objective), dict(vars(estimator))
    assert estimator(objective) == estimator(objective) == estimator(kind(data()))
    assert vars(estimator) == options
    assert all(torch.equal(new, old) for new, old in zip(fingerprint(objective), before, strict=True))


@EVERY_ESTIMATOR
@EVERY_OBJECTIVE
def test_order_of_tokens_does_not_matter(estimator, kind):
    order = torch.randperm(45, generator=torch.Generator().manual_seed(2))
    shuffled = data()[order]
    if kind is masked:  # the table would put them in order again
        shuffled.example[:] = torch.arange(45)
    assert_close(estimator(kind(shuffled)), estimator(kind(data())))


@EVERY_ESTIMATOR
@EVERY_OBJECTIVE
@pytest.mark.parametrize("batch", [1, 7])
def test_batches_do_not_matter(estimator, kind, batch):
    assert_close(estimator(kind(data(), batch=batch)), estimator(kind(data())))


@EVERY_ESTIMATOR
@EVERY_OBJECTIVE
def test_single_precision_logits_give_the_same(estimator, kind):
    # `masked` with float32 logits keeps a float32 table
    assert_close(estimator(kind(data().to(torch.float32))), estimator(kind(data())), rel=1e-3)


@EVERY_ESTIMATOR
@EVERY_OBJECTIVE
def test_the_data_counted_twice_give_the_same(estimator, kind):
    twice = data()[torch.arange(90) % 45]
    twice.example[45:] += 1000
    found, expected = estimator(kind(twice)), estimator(kind(data()))
    assert found.strengths == pytest.approx(expected.strengths, rel=1e-7)
    assert found.skipped == 2 * expected.skipped


@EVERY_ESTIMATOR
@EVERY_OBJECTIVE
def test_models_that_agree_do_not_break_it(estimator, kind):
    agreeing = data()
    agreeing.base[:] = agreeing.tuned
    assert all(map(math.isfinite, estimator(kind(agreeing)).strengths))


@EVERY_ESTIMATOR
def test_one_token_is_enough(estimator):
    one = data()[:1]
    one.labels[0] = one.tuned[0].argmax()
    assert all(map(math.isfinite, estimator(masked(one)).strengths))
