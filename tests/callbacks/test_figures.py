"""The figures show the numbers of the calibration."""

import pytest
import torch

from svd_lightning.calibration import CalibrationTable, MaskedObjective
from svd_lightning.callbacks.figures import objective_figure, strength_figure, token_strength_values
from svd_lightning.steering import KLGradient, NaturalGradient, Steering, Temperature


@pytest.fixture(scope="module")
def table():
    generator = torch.Generator().manual_seed(0)
    tuned = torch.randn(40, 12, generator=generator)
    base = tuned + 0.5 * torch.randn(40, 12, generator=generator)
    metric = CalibrationTable([KLGradient(), NaturalGradient(), Temperature()], alpha=0.05)
    metric.update(tuned, base, tuned.argmax(-1), torch.arange(40), torch.zeros(40, dtype=torch.long))
    return metric.compute()


@pytest.mark.parametrize(
    "steering",
    [
        Steering([KLGradient()], [3.0], penalty=0.0),
        Steering([KLGradient()], [0.0], penalty=0.0),
        Steering([KLGradient()], [-2.0]),
        Steering([KLGradient(), NaturalGradient()], [1.0, -0.5]),
    ],
    ids=["positive", "zero", "negative", "two-rules"],
)
def test_the_curve_is_the_objective_and_the_point_the_strength(steering, table):
    [axes] = objective_figure(table, steering).axes
    curve, zero, point = axes.lines
    objective = MaskedObjective(table, steering.rules, penalty=steering.penalty)
    single = len(steering.rules) == 1
    for x, y in list(zip(*curve.get_data(), strict=True))[::20]:
        mu = torch.tensor([x] if single else steering.strengths, dtype=torch.float64) * (1.0 if single else x)
        assert y == pytest.approx(objective.evaluate(mu).nll)
    [x], [y] = point.get_data()
    assert x == (steering.strengths[0] if single else 1.0)
    assert y == pytest.approx(objective.evaluate(torch.tensor(steering.strengths, dtype=torch.float64)).nll)
    assert min(curve.get_xdata()) < 0.0 < max(curve.get_xdata()), "both sides of the tuned model are seen"
    assert set(zero.get_xdata()) == {0.0}


def test_the_histogram_holds_every_informative_token(table):
    values = token_strength_values(table, Steering([KLGradient()], [1.0]))
    terms = MaskedObjective(table, [KLGradient()]).terms()
    keep = terms.sq_norm >= 1e-12
    torch.testing.assert_close(values, (terms.inner / (terms.sq_norm + 1e-12))[keep])
    [axes] = strength_figure(values).axes
    assert sum(bar.get_height() for bar in axes.patches) == len(values)


@pytest.mark.parametrize("values", [[], [0.0], [0.05, -0.02], [1e6, -3.0, 0.4], [1.0]])
def test_the_histogram_loses_no_token(values):
    [axes] = strength_figure(torch.tensor(values)).axes
    assert sum(bar.get_height() for bar in axes.patches) == len(values)
