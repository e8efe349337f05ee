"""The figures show the numbers of the calibration: read back from their axes, and drawn."""

import io
import itertools
import math

import matplotlib.colors
import pytest
import torch

from svd_lightning.objective import MaskedObjective, judged_penalty
from svd_lightning.report import calibration_figures
from svd_lightning.report.canvas import MUTED, ORANGE, svg
from svd_lightning.report.figures import (
    gain_figure,
    history_figure,
    mask_figure,
    objective_figure,
    ray_figure,
    strength_figure,
    token_strength_values,
)
from svd_lightning.report.task_figures import task_figures
from svd_lightning.steering import KLGradient, NaturalGradient
from tests.report.cases import CASES

HISTORY = [
    {"epoch": e, "kl_to_reference": 0.1 * e, "nll_base": 2.0, "nll_tuned": 2.0 - e, "nll_steered": 1.9 - e}
    for e in range(3)
]


@pytest.fixture(scope="module", params=CASES)
def any_case(request):
    return CASES[request.param]()


@pytest.fixture(scope="module")
def one():
    return CASES["one-rule"]()


def nll(case, rules, strengths):
    objective = MaskedObjective(case.table.narrow(0.1), rules, penalty=judged_penalty(case.steering.penalty))
    return objective.evaluate(torch.tensor(strengths, dtype=torch.float64)).nll


def test_the_figures_are_those_that_the_record_has(any_case):
    """test_page.py draws each of them, as SVG."""
    figures = calibration_figures(
        any_case.record, table=any_case.table, rules=any_case.steering.directions, history=HISTORY
    )
    expected = {"objective", "token_strength", "gain", "history", "mask"}
    assert {name for name in figures if "/" not in name} == expected - (
        {"mask"} if not any_case.record["sweep"] else set()
    )


@pytest.mark.parametrize("name", ["heavy-tails", "tasks"])
def test_figures_can_be_drawn_as_png_for_loggers(name):
    case = CASES[name]()
    figures = calibration_figures(case.record, table=case.table, rules=case.steering.directions, history=HISTORY)
    for figure in figures.values():
        figure.savefig(drawn := io.BytesIO(), format="png")
        assert drawn.getvalue().startswith(b"\x89PNG")


def test_without_tokens_or_rules_the_curves_are_left_out(one):
    unmasked = {"table": object(), "rules": [KLGradient()]}
    for parts in (unmasked, {"table": None, "rules": [KLGradient()]}, {"table": one.table, "rules": None}):
        assert set(calibration_figures(one.record, **parts)) == {"mask", "gain"}


def test_the_curve_is_the_objective_and_holds_every_estimator(any_case):
    rule = any_case.steering.rules[0]
    masked = any_case.table.narrow(0.1)
    [axes] = objective_figure(masked, rule, any_case.record).axes
    curve, zero, *points = axes.lines
    assert set(zero.get_xdata()) == {0.0}
    for x, y in list(zip(*curve.get_data(), strict=True))[::16]:
        assert y == pytest.approx(nll(any_case, [rule], [x]))
    low, high = axes.get_xlim()
    assert low < 0.0 < high, "both sides of the tuned model are seen"
    mine = [c for c in any_case.record["candidates"] if c["rules"] == [type(rule).__name__]]
    assert len(points) == len(mine) >= 1
    for point, candidate in zip(points, mine, strict=True):
        [x], [y] = point.get_data()
        mu = candidate["strengths"][0]
        assert point.get_label().startswith(f"{candidate['estimator']}: ")
        assert x == min(max(mu, low), high)
        assert ("off the chart" in point.get_label()) == (not low <= mu <= high)
        assert y == pytest.approx(nll(any_case, [rule], [x]))
        assert candidate["estimator"] != "LineSearch" or low < mu < high, "the optimum is always on the chart"


def test_estimators_far_out_are_arrows_at_the_edge():
    case = CASES["heavy-tails"]()
    [axes] = objective_figure(case.table.narrow(0.1), KLGradient(), case.record).axes
    off = [line for line in axes.lines if "off the chart" in str(line.get_label())]
    assert off, "the case has such an estimator"
    assert {line.get_marker() for line in off} <= {"<", ">"}


@pytest.mark.parametrize("mu", [80.0, -0.01, 0.0, -3e4])
def test_any_strength_gives_a_chart_around_it(mu, one):
    record = {
        **one.record,
        "candidates": [{"rules": ["KLGradient"], "estimator": "LineSearch", "strengths": [mu]}],
    }
    [axes] = objective_figure(one.table.narrow(0.1), KLGradient(), record).axes
    low, high = axes.get_xlim()
    assert low < min(0.0, mu) <= max(0.0, mu) < high
    bottom, top = axes.get_ylim()
    assert math.isfinite(top - bottom)
    assert top > bottom


def test_several_rules_have_a_common_way_and_a_curve_each():
    case = CASES["two-rules"]()
    figures = calibration_figures(case.record, table=case.table, rules=case.steering.rules)
    assert {"objective", "objective/KLGradient", "objective/NaturalGradient"} <= set(figures)
    rules = [KLGradient(), NaturalGradient()]
    [axes] = ray_figure(case.table.narrow(0.1), rules, case.record).axes
    curve, _, point = axes.lines
    [x], [y] = point.get_data()
    assert (x, y) == (1.0, pytest.approx(nll(case, rules, case.record["strengths"])))
    for share, y in list(zip(*curve.get_data(), strict=True))[::16]:
        assert y == pytest.approx(nll(case, rules, [share * mu for mu in case.record["strengths"]]))
    assert min(curve.get_ydata()) >= point.get_ydata()[0] - 1e-12, "nothing on the way is better"


def test_the_histogram_holds_every_informative_token(one):
    masked = one.table.narrow(0.1)
    values = token_strength_values(masked, KLGradient())
    terms = MaskedObjective(masked, [KLGradient()]).terms()
    keep = terms.sq_norm >= 1e-12
    torch.testing.assert_close(values, (terms.inner / (terms.sq_norm + 1e-12))[keep])
    [axes] = strength_figure(values).axes
    assert sum(bar.get_height() for bar in axes.patches) == len(values)


@pytest.mark.parametrize("values", [[], [0.0], [0.05, -0.02], [1e6, -3.0, 0.4], [1.0], [1e12, -7e11], [3e-9]])
def test_the_histogram_loses_no_token_and_can_be_drawn(values):
    figure = strength_figure(torch.tensor(values, dtype=torch.float64), marks={"Mean": 2e5, "Median": -0.3})
    [axes] = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == len(values)
    assert [line.get_xdata()[0] for line in axes.lines] == [2e5, -0.3]
    low, high = axes.get_xlim()
    assert low < -0.3 < 2e5 < high
    assert len(axes.get_xticks()) <= 9
    assert svg(figure)


@pytest.mark.parametrize("name", ["one-rule", "many-alphas"])
def test_the_mask_figure_is_the_sweep(name):
    record = CASES[name]().record
    above, below = mask_figure(record).axes
    alphas = [choice["alpha"] for choice in record["sweep"]]
    assert list(above.lines[0].get_xdata()) == list(below.lines[0].get_xdata()) == alphas
    assert list(above.lines[0].get_ydata()) == [100 * choice["coverage"] for choice in record["sweep"]]
    assert list(below.lines[0].get_ydata()) == [choice["mask_size"] for choice in record["sweep"]]
    assert list(above.lines[1].get_xdata()) == [0.1, 0.1]
    assert below.get_xscale() == ("log" if name == "many-alphas" else "linear")
    shown = below.get_xticks()
    assert name == "one-rule" or all(b >= 2 * a for a, b in itertools.pairwise(shown))


def gain_record(*gains, used=None):
    candidates = [
        {"rules": ["KLGradient"], "estimator": f"E{i}", "strengths": [float(i)], "gain": gain}
        for i, gain in enumerate(gains)
    ]
    return {"candidates": candidates, "used": {"rules": ["KLGradient"], "strengths": [float(used or -1)]}}


def gain(mean, low, high):
    return {"mean": mean, "low": low, "high": high}


def test_bars_are_the_gains_and_lines_their_intervals(any_case):
    candidates = any_case.record["candidates"]
    [axes] = gain_figure(any_case.record).axes
    low, high = axes.get_xlim()
    assert low < 0.0 < high
    *intervals, zero = axes.lines
    assert set(zero.get_xdata()) == {0.0}
    assert [bar.get_width() for bar in axes.patches] == [c["gain"]["mean"] for c in candidates]
    shown = [c["gain"] for c in candidates if low <= c["gain"]["mean"] <= high]
    assert [tuple(line.get_xdata()) for line in intervals] == [(g["low"], g["high"]) for g in shown]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label.split("\n")[-1] for label in labels] == [c["estimator"] for c in candidates]


def test_one_huge_loss_does_not_hide_the_others():
    others = [gain(0.01 * i, 0.01 * i - 0.005, 0.01 * i + 0.005) for i in range(6)]
    [axes] = gain_figure(gain_record(gain(-50.0, -80.0, -20.0), *others)).axes
    low, high = axes.get_xlim()
    assert -0.1 < low < 0.0
    assert 0.055 < high < 0.1
    assert [text.get_text() for text in axes.texts] == ["cut, -50"]
    assert len(axes.lines) == len(others) + 1, "no interval of what is cut, and the zero line"


def test_an_unknown_interval_is_not_drawn_and_colours_tell_what_is_sure():
    record = gain_record(gain(0.0, -math.inf, math.inf), gain(0.1, -0.1, 0.3), gain(0.2, 0.1, 0.3), used=2)
    figure = gain_figure(record)
    [axes] = figure.axes
    assert len(axes.lines) == 3
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [MUTED, MUTED, ORANGE]
    assert svg(figure)


def test_the_tasks_stand_beside_all_examples():
    record = CASES["tasks"]().record
    figures = task_figures(record)
    assert list(figures) == ["tasks/KLGradient", "tasks/NaturalGradient"]
    for place, figure in enumerate(figures.values()):
        [axes] = figure.axes
        _, pooled, *marks = axes.lines
        assert list(pooled.get_xdata()) == [record["strengths"][place]] * 2
        drawn = [tuple(mark.get_xdata()) for mark in marks]
        expected = [
            at
            for task in record["tasks"]
            for at in ([*[tuple(i[place]) for i in [task["intervals"]] if i], (task["strengths"][place],)])
        ]
        assert drawn == expected
        assert [label.get_text() for label in axes.get_yticklabels()] == ["even <b>", "odd"]
    without = {**record, "tasks": [{**task, "intervals": None} for task in record["tasks"]]}
    [axes] = task_figures(without)["tasks/KLGradient"].axes
    assert len(axes.lines) == 2 + len(record["tasks"])
    assert task_figures({**record, "tasks": []}) == {}


@pytest.mark.parametrize("rows", [1, 3])
def test_the_history_is_that_of_the_epochs(rows):
    above, below = history_figure(HISTORY[:rows]).axes
    assert list(above.lines[0].get_xdata()) == [1, 2, 3][:rows]
    assert list(above.lines[0].get_ydata()) == [row["kl_to_reference"] for row in HISTORY[:rows]]
    for line, name in zip(below.lines, ("base", "tuned", "steered"), strict=True):
        assert list(line.get_ydata()) == [row[f"nll_{name}"] for row in HISTORY[:rows]]
        assert line.get_label() == name
    assert all(float(tick).is_integer() for tick in below.get_xticks())
