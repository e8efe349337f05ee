"""The closed forms against brute force, the project's oracle, and data that make estimators fail."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.objective import MaskedObjective, TokenCollector
from svd_lightning.steering import KLGradient, NaturalGradient
from svd_lightning.strength import Fixed, LineSearch, Mean, Median, Newton, Sequence, TrimmedMean
from tests.functional import reference as single
from tests.objective import reference
from tests.strength.objectives import GivenTerms, masked, streamed

ORACLE = Path(__file__).parents[3] / "shared" / "oracle" / "steering_cases.json"
EPSILON = 1e-12
TAU = 10.0


def trimmed_mean(values, threshold=TAU):
    middle = np.median(values)
    return np.mean([value for value in values if abs(value - middle) < threshold])


CLOSED_FORMS = {
    Mean: lambda b, norm, var: np.mean(b / (norm + EPSILON)),
    Median: lambda b, norm, var: np.median(b / (norm + EPSILON)),
    TrimmedMean: lambda b, norm, var: trimmed_mean(b / (norm + EPSILON)),
    Sequence: lambda b, norm, var: b.sum() / (norm.sum() + EPSILON),
    Newton: lambda b, norm, var: b.sum() / (var.sum() + EPSILON),
}
EVERY_CLOSED_FORM = pytest.mark.parametrize("estimator", CLOSED_FORMS, ids=lambda cls: cls.__name__)


def brute_force(data, alpha):
    """b, ‖d‖² and dᵀJd of the paper's rule, [3, N], with the Jacobian built explicitly."""
    for token in range(len(data)):
        tuned, base = data.tuned[token].numpy(), data.base[token].numpy()
        d = single.direction(tuned, base)
        if alpha is not None:
            d = d * single.mask(tuned, alpha)
        yield single.terms(tuned, d, int(data.labels[token]))


@EVERY_CLOSED_FORM
@pytest.mark.parametrize("alpha", [0.02, 0.5, None])
@pytest.mark.parametrize("count", [24, 25])
def test_closed_forms(estimator, alpha, count):
    data = reference.tokens(count)
    b, norm, var = np.array(list(brute_force(data, alpha))).T
    found = estimator()(streamed(data) if alpha is None else masked(data, alpha=alpha))
    assert found.strengths == pytest.approx([CLOSED_FORMS[estimator](b, norm, var)], rel=1e-9)
    assert (found.skipped, found.warning) == (0, None)


@pytest.mark.skipif(not ORACLE.exists(), reason=f"no oracle beside the repository ({ORACLE})")
def test_oracle():
    oracle = json.loads(ORACLE.read_text())
    columns = []
    for case in oracle["cases"]:
        tuned, base = (torch.tensor([case[f"{of}_logits"]], dtype=torch.float64) for of in ("tuned", "base"))
        metric = TokenCollector([KLGradient()], alpha=case["alpha"])
        metric.update(tuned, base, torch.tensor([case["label"]]), torch.tensor([0]), torch.tensor([1]))
        columns.append(torch.stack(MaskedObjective(metric.compute(), [KLGradient()], penalty=0.0).terms()))
    objective = GivenTerms(*torch.cat(columns, dim=-1))
    for estimator in (Mean, Median, Sequence, Newton):
        found = estimator()(objective)
        assert found.strengths == pytest.approx([oracle["estimators"][estimator.__name__.lower()]], rel=1e-9)
        assert found.skipped == oracle["estimators"]["skipped"]


def test_heavy_tails_move_the_mean_alone():
    """One token in twenty on which the models all but agree, and where b points the other way."""
    inner, sq_norm = np.full(20, 0.01), np.full(20, 0.01)
    inner[7], sq_norm[7] = -1e-4, 1e-8
    found = {cls: cls()(GivenTerms(inner, sq_norm, 0.1 * sq_norm)).strengths[0] for cls in CLOSED_FORMS}
    assert found[Mean] < -100
    assert found[Median] == pytest.approx(1.0)
    assert found[TrimmedMean] == pytest.approx(1.0)
    assert found[Sequence] == pytest.approx(1.0, rel=1e-2)
    assert found[Newton] == pytest.approx(10.0, rel=1e-2)


def test_trimmed_mean_of_two_far_clusters_is_the_median():
    found = TrimmedMean()(GivenTerms([-50.0, 70.0], [1.0, 1.0], [1.0, 1.0]))
    assert found.strengths == pytest.approx([10.0])


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, 2.0), (1.5, 2.0), (100.0, 22.0)])
def test_threshold_of_the_trimmed_mean(threshold, expected):
    objective = GivenTerms([1.0, 2.0, 3.0, 2.0, 102.0], *np.ones((2, 5)))
    assert TrimmedMean(threshold)(objective).strengths == pytest.approx([expected])


@EVERY_CLOSED_FORM
def test_tokens_without_information_are_skipped_and_counted(estimator):
    data = reference.tokens()
    data.base[[2, 5, 6]] = data.tuned[[2, 5, 6]] + 4.0
    informative = [token for token in range(24) if token not in (2, 5, 6)]
    found, expected = estimator()(masked(data)), estimator()(masked(data[informative]))
    assert found.skipped == 3
    assert found.strengths == pytest.approx(expected.strengths)


@EVERY_CLOSED_FORM
@pytest.mark.parametrize("rule", [KLGradient(), NaturalGradient()], ids=lambda rule: type(rule).__name__)
def test_nothing_to_learn(estimator, rule):
    data = reference.tokens()
    data.base[:] = data.tuned
    found = estimator()(masked(data, [rule]))
    assert (found.strengths, found.skipped) == ((0.0,), 24)
    assert "tuned and base model agree on every calibration token" in found.warning


@EVERY_CLOSED_FORM
@pytest.mark.parametrize("kind", [masked, streamed])
def test_several_rules_are_refused_by_estimators_of_one(estimator, kind):
    with pytest.raises(InputError, match="single rule, got 3; use LineSearch"):
        estimator()(kind(reference.tokens(), reference.RULES))


def test_fixed():
    objective = masked(reference.tokens(), reference.RULES[:2])
    assert Fixed([3, -1.5])(objective).strengths == (3.0, -1.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_fixed_strengths_are_finite(value):
    with pytest.raises(InputError, match="strengths: expected finite numbers"):
        Fixed([0.5, value])


@pytest.mark.parametrize("strengths", [[], [1.0, 2.0]])
def test_fixed_strengths_are_one_per_rule(strengths):
    with pytest.raises(InputError, match=rf"expected one per rule \(1\), got {len(strengths)}"):
        Fixed(strengths)(masked(reference.tokens()))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("estimator", "option"),
    [(TrimmedMean, "threshold"), (LineSearch, "bound"), (LineSearch, "kl_budget"), (LineSearch, "tolerance")],
)
def test_options_are_positive_and_finite(estimator, option, value):
    with pytest.raises(InputError, match=f"{option}: expected a finite number above 0"):
        estimator(**{option: value})
