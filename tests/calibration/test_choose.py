"""The choice among steered candidates and corrections: the simplest that surely gains, and no lucky one."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from svd_lightning.calibration import AS_IT_IS, LabelSplit, calibrate, fit_corrections, in_use, recall_all
from svd_lightning.calibration.candidates import evidence
from svd_lightning.calibration.choose import choose
from svd_lightning.calibration.corrections import FittedCorrection
from svd_lightning.calibration.rivals import Rival
from svd_lightning.calibration.split import CalibrationSplit, Scores
from svd_lightning.calibration.verdict import switched_off
from svd_lightning.objective import LabelCollector, label_tokens
from svd_lightning.steering import (
    CalibratedHead,
    Corrected,
    KLGradient,
    LabelBias,
    NaturalGradient,
    Prior,
    Steering,
    TaskAware,
    Temperature,
    with_built_in,
)
from svd_lightning.strength import LineSearch
from tests.objective import reference


def calibrated(data, states=None, *, guard=True):
    """Calibrate on tokens of both kinds, made from the same logits."""
    steering = Steering([KLGradient()], alpha=0.3)
    table = reference.table(data, rules=with_built_in([KLGradient()]), alpha=0.3)
    collector = LabelCollector(label_tokens([data.labels]), 4)
    states = (
        torch.randn(len(data.labels), 4, generator=torch.Generator().manual_seed(2)) if states is None else states
    )
    collector.update(data.tuned, states, data.labels, data.example, data.position)
    fitted = fit_corrections(LabelSplit(collector.compute()), folds=4)
    return calibrate(table, steering, LineSearch(), corrections=fitted, guard=guard, folds=4), fitted


def test_noise_is_left_alone():
    """Where the tuned model is right there is nothing to correct: held out, no correction surely helps."""
    data = reference.tokens(160, size=13)
    labels = torch.multinomial(data.tuned.softmax(-1), 1, generator=torch.Generator().manual_seed(3)).squeeze(-1)
    record, _ = calibrated(reference.Tokens(data.tuned, data.base, labels, data.example, data.position))
    assert record["verdict"] != "correct"


@pytest.mark.parametrize(("by_states", "kind"), [(False, Prior), (True, CalibratedHead)], ids=["prior", "head"])
def test_the_simplest_correction_that_does_as_well_is_used(by_states, kind):
    """Labels off by a constant need the prior; off by a map of the states, the head."""
    data = reference.tokens(240, size=13)
    states = torch.randn(240, 4, generator=torch.Generator().manual_seed(2))
    truth = data.tuned.clone()
    truth[:, [2, 5]] += 3.0 * states[:, :2] if by_states else 3.0
    labels = torch.multinomial(truth.softmax(-1), 1, generator=torch.Generator().manual_seed(3)).squeeze(-1)
    data = reference.Tokens(data.tuned, data.base, labels, data.example, data.position)
    record, fitted = calibrated(data, states)
    assert record["verdict"] == "correct"
    assert record["used"]["correction"] == kind.__name__
    assert record["used"]["gain"]["low"] > 0.0
    used = recall_all(Steering([KLGradient()], alpha=0.3), record, {one.name: one.correction for one in fitted})
    assert isinstance(used.shared, Corrected)
    assert isinstance(used.shared.correction, kind)
    candidate = next(one for one in fitted if isinstance(one.correction, kind))
    corrected = used.shared(used.shared.correction(data.tuned, states), data.base)
    torch.testing.assert_close(-corrected.log_softmax(-1).gather(-1, labels[:, None]).mean().item(), candidate.nll)
    unguarded, _ = calibrated(data, states, guard=False)
    assert "correction" not in unguarded["used"]
    assert unguarded["advice"][-1].startswith(f"with the guard {candidate.in_words} would be used: ")


def test_any_recipe_may_be_used():
    """Labels that follow log(p/q) want the natural gradient, whatever is configured."""
    data = reference.tokens(400, size=13)
    truth = data.tuned + 1.5 * (data.tuned.log_softmax(-1) - data.base.log_softmax(-1))
    labels = torch.multinomial(truth.softmax(-1), 1, generator=torch.Generator().manual_seed(5)).squeeze(-1)
    data = reference.Tokens(data.tuned, data.base, labels, data.example, data.position)
    steering = Steering([TaskAware()], alpha=0.01, penalty=0.0)
    table = reference.table(data, rules=with_built_in([TaskAware()]), alpha=0.01)
    configured = calibrate(table, steering, LineSearch(), folds=4)
    assert "recipe" not in configured["used"]
    record = calibrate(table, steering, LineSearch(), any_recipe=True, folds=4)
    assert record["verdict"] == "steer"
    assert record["used"]["recipe"] == "NaturalGradient by LineSearch"
    assert record["used"]["gain"]["low"] > 0.0
    assert record["rules"] == configured["rules"] == ["TaskAware"]
    used = recall_all(steering, record).shared
    assert [type(rule) for rule in used.rules] == [NaturalGradient]
    assert list(used.strengths) == record["used"]["strengths"] != [0.0]

    def refuse(record):
        return {**record, **switched_off(record["rules"], f"{in_use(record)} is refused{AS_IT_IS}")}

    last = calibrate(table, steering, LineSearch(), any_recipe=True, check=refuse, folds=4)
    assert last["verdict"] == "tuned"
    assert sum("is refused" in text for text in last["advice"]) >= 3  # one after the other, and then no more


def test_of_what_gains_and_costs_alike_the_least_drift_is_taken():
    make = torch.Generator().manual_seed(0)
    split = CalibrationSplit(reference.table(reference.tokens(120, size=13), rules=[KLGradient()], alpha=0.3))
    tuned = Scores(*[torch.zeros(len(split.example), dtype=torch.float64)] * 2, None)

    def rival(name, gain, drift, verdict="correct"):
        scores = gain + 0.1 * torch.randn(len(split.example), generator=make, dtype=torch.float64)
        return Rival(name, "", Scores(scores, scores, None), (tuned,), verdict, None, drift=drift)

    poor, bias, head = rival("poor", 0.1, 0.0), rival("bias", 0.5, 4.7), rival("head", 0.5, 1.0)
    steered = rival("steered", 0.5, 0.1, "steer")  # but the base runs too
    for order, wanted in (
        ([poor, bias, head, steered], head),
        ([poor, bias, replace(head, drift=math.inf), steered], bias),
        ([poor, replace(bias, drift=math.inf), replace(head, drift=math.inf)], replace(bias, drift=math.inf)),
        ([poor, steered], steered),
    ):
        best, gain = choose(split, tuned, order, folds=4)
        assert best == wanted
        assert gain.sure


def test_the_control_may_replace_a_sure_steering():
    """Steering surely gains a little beyond sharpening; a bias gains as much, and sharpening all but."""
    data = reference.tokens(600, size=13)
    truth = 2.5 * data.tuned + 2.0 * (data.tuned.softmax(-1) - data.base.softmax(-1))
    labels = torch.multinomial(truth.softmax(-1), 1, generator=torch.Generator().manual_seed(0)).squeeze(-1)
    data = reference.Tokens(data.tuned, data.base, labels, data.example, data.position)
    rules = [KLGradient(), Temperature()]
    table = reference.table(data, rules=with_built_in(rules), alpha=0.01)
    steering = Steering(rules, alpha=0.01, penalty=0.0)
    alone = calibrate(table, steering, LineSearch())
    assert alone["verdict"] == "steer"
    noise = torch.randn(len(labels), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    as_good = CalibrationSplit(table).likelihood(rules).label_log_probs(torch.tensor(alone["strengths"]))
    scores = as_good + noise - noise.mean()
    bias = FittedCorrection(LabelBias(torch.tensor([0]), torch.zeros(1)), {}, [], scores, None, 0.0, 0.0)

    def measured(record, control):
        drifts = {("Temperature",): control}
        candidates = [{**one, "drift": drifts.get(tuple(one["rules"]), 2.0)} for one in record["candidates"]]
        return {**record, "candidates": candidates, "corrections": [{**record["corrections"][0], "drift": 1.0}]}

    def verdict(control):
        drifts = partial(measured, control=control)
        return calibrate(table, steering, LineSearch(), corrections=[bias], measure=drifts)

    assert verdict(2.0)["used"]["correction"] == "LabelBias"
    record = verdict(0.5)
    assert record["verdict"] == in_use(record) == "control"
    assert record["message"].startswith("sharpening alone helps most: ")
    used = recall_all(steering, record).shared
    assert [type(rule) for rule in used.rules] == [Temperature]
    assert list(used.strengths) == record["used"]["strengths"] == record["candidates"][0]["strengths"]


@pytest.mark.parametrize(("drift", "much"), [(2.0, True), (0.4, False)])
def test_a_milder_correction_that_may_do_as_well_is_named(drift, much):
    """It is behind the best by more than a standard error, but not surely: a user may prefer it."""
    data = reference.tokens(240, size=13)
    table = reference.table(data, rules=with_built_in([KLGradient()]), alpha=0.3)
    split = CalibrationSplit(table)
    tuned = split.likelihood([KLGradient()]).label_log_probs(torch.zeros(1))
    noise = torch.randn(80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    behind = 0.1 * ((noise - noise.mean()) / noise.std() + 1.5 / 80**0.5)  # 1.5 standard errors
    scores = {"head": tuned + 1.0 - behind[table.example], "bias": tuned + 1.0}
    kinds = {
        "head": CalibratedHead(torch.tensor([0]), torch.zeros(1, 4)),
        "bias": LabelBias(torch.tensor([0]), torch.zeros(1)),
    }
    fitted = [FittedCorrection(kind, {}, [], scores[name], None, 0.0, 0.0) for name, kind in kinds.items()]

    def measured(record):
        drifts = {"CalibratedHead": 0.1, "LabelBias": drift}
        return {**record, "corrections": [{**one, "drift": drifts[one["name"]]} for one in record["corrections"]]}

    record = calibrate(
        table, Steering([KLGradient()], alpha=0.3), LineSearch(), corrections=fitted, measure=measured
    )
    assert record["used"]["correction"] == "LabelBias"
    found = [one for one in record["advice"] if "other text" in one]
    assert len(found) == much
    if much:
        assert found[0].startswith(
            "the label bias moves other text by 2.00 nats per token; the calibrated head, which"
        )
        assert found[0].endswith(
            "by 0.10: if the model is to write other text too, name what to try in calibration.corrections"
        )


def test_the_gain_of_the_luckiest_is_not_believed():
    """Among many candidates that gain nothing some surely gain, by their own intervals; none of them is used."""
    make = torch.Generator().manual_seed(0)
    data = reference.tokens(120, size=13)
    split = CalibrationSplit(reference.table(data, rules=with_built_in([KLGradient()]), alpha=0.3))
    tuned = Scores(*[torch.zeros(len(split.example), dtype=torch.float64)] * 2, None)
    rivals = []
    for number in range(60):
        scores = torch.randn(len(split.example), generator=make, dtype=torch.float64)
        rivals.append(Rival(str(number), "", Scores(scores, scores, None), (tuned,), "steer", None))
    assert any(evidence(split, one.scores, tuned).gain.sure for one in rivals)
    best, gain = choose(split, tuned, rivals, folds=4)
    assert best is None
    assert not gain.sure
    rounded = Scores(*[torch.full_like(tuned.fitted, 1e-5)] * 2, None)
    best, _ = choose(split, tuned, [Rival("rounded", "", rounded, (tuned,), "correct", None)], folds=4)
    assert best is None  # the same numbers, from another sum
    assert not evidence(split, tuned, rounded).harm
    good = Scores(*[0.5 + rivals[0].scores.fitted] * 2, None)
    better = Rival("good", "", good, (tuned,), "steer", None)
    best, gain = choose(split, tuned, [*rivals, better], folds=4)
    assert best is better
    assert gain.low > 0.0
