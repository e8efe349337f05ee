"""Corrections against the slow definition: logistic regression with offsets over the whole vocabulary."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F

from svd_lightning.calibration import (
    LabelSplit,
    corrections,
    fit_corrections,
)
from svd_lightning.calibration.losses import LabelLoss
from svd_lightning.calibration.prior import prior_fit
from svd_lightning.calibration.ridge import RIDGES, ridge_fit
from svd_lightning.errors import InputError
from svd_lightning.objective import LabelCollector, label_tokens
from svd_lightning.steering import CalibratedHead

HIDDEN, VOCABULARY = 5, 23


class Drawn:
    """Logits that miss what a linear map of the states, or a constant, would add for three tokens."""

    def __init__(self, count=120, *, strength=2.0, seed=0):
        make = torch.Generator().manual_seed(seed)
        self.states = torch.randn(count, HIDDEN, generator=make)
        self.logits = 0.5 * torch.randn(count, VOCABULARY, generator=make)
        truth = self.logits.clone()
        truth[:, [3, 7, 11]] += 2.5 + strength * self.states @ torch.randn(HIDDEN, 3, generator=make)
        self.labels = torch.multinomial(truth.softmax(-1), 1, generator=make).squeeze(-1)
        self.example = torch.arange(count) // 2
        self.position = torch.arange(count) % 2

    def tokens(self, rows=slice(None)):
        collector = LabelCollector(label_tokens([self.labels]), HIDDEN)
        fields = (self.logits, self.states, self.labels, self.example, self.position)
        collector.update(*(field[rows] for field in fields))
        return collector.compute()

    def nll(self, weights, tokens, features, keep):
        """Mean NLL of the kept labels, by logits over the whole vocabulary."""
        logits = self.logits.double().clone()
        logits[:, tokens] += features.double() @ weights.T
        return F.cross_entropy(logits[keep], self.labels[keep])


def every(fold):
    return torch.ones_like(fold, dtype=torch.bool)


@pytest.mark.parametrize("constant", [False, True], ids=["head", "bias"])
def test_the_fit_is_a_minimum_on_the_whole_vocabulary(constant):
    """The gradient of the definition, by autograd over all V logits, is zero there; rare tokens stay."""
    data = Drawn()
    features = torch.ones(len(data.labels), 1) if constant else data.states
    tokens, fold = data.tokens(), data.example % 4
    fit = ridge_fit(LabelLoss(tokens), features, fold, among=every(fold))
    assert 0 < fit.settings["ridge"] < math.inf
    scale = features.double().square().sum(-1).mean()
    at = fit.weights.clone().requires_grad_()
    value = data.nll(at, tokens.tokens, features, every(fold)) + fit.settings["ridge"] * scale * at.square().sum()
    value.backward()
    assert at.grad.abs().max() < 1e-4
    for number, weights in enumerate(fit.by_fold):
        counts = torch.bincount(data.labels[fold != number], minlength=VOCABULARY)[tokens.tokens]
        assert torch.equal(weights.any(dim=-1), counts >= 2)


def test_folds_and_penalties_are_those_of_a_slow_search():
    """Every fold and every λ fitted from scratch, on the whole vocabulary."""
    data = Drawn(60)
    tokens, fold = data.tokens(), data.example % 3
    fit = ridge_fit(LabelLoss(tokens), data.states, fold, among=every(fold))
    scale = data.states.double().square().sum(-1).mean()

    def slow(keep, ridge):
        if ridge == math.inf:
            return torch.zeros(len(tokens.tokens), HIDDEN, dtype=torch.float64)
        free = torch.bincount(data.labels[keep], minlength=VOCABULARY)[tokens.tokens] >= 2
        weights = torch.zeros(len(tokens.tokens), HIDDEN, dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def loss():
            search.zero_grad()
            moved = weights * free.unsqueeze(-1)
            value = data.nll(moved, tokens.tokens, data.states, keep) + ridge * scale * moved.square().sum()
            value.backward()
            return value

        search.step(loss)
        return (weights * free.unsqueeze(-1)).detach()

    def nll(ridge, out, unseen):
        return data.nll(
            slow(~torch.isin(fold, torch.tensor(out)), ridge), tokens.tokens, data.states, fold == unseen
        )

    mean = [sum(nll(ridge, [one], one) for one in range(3)) for ridge in RIDGES]
    assert fit.settings["ridge"] == RIDGES[mean.index(min(mean))]
    for one, weights in enumerate(fit.by_fold):
        mean = [sum(nll(ridge, [one, each], each) for each in range(3) if each != one) for ridge in RIDGES]
        expected = slow(fold != one, RIDGES[mean.index(min(mean))])
        torch.testing.assert_close(weights, expected, atol=1e-3, rtol=1e-3)


def test_a_folds_labels_do_not_reach_what_scores_them():
    """Other labels in a fold change nothing of the fit without it, its λ included."""
    data = Drawn()
    fold = data.example % 4
    before = ridge_fit(LabelLoss(data.tokens()), data.states, fold, among=every(fold))
    data.labels[fold == 2] = data.labels[fold == 2].roll(3)
    after = ridge_fit(LabelLoss(data.tokens()), data.states, fold, among=every(fold))
    torch.testing.assert_close(before.by_fold[2], after.by_fold[2], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before.by_fold[1], after.by_fold[1])


def test_the_prior_is_fitted_to_examples_that_its_counts_leave_out():
    """Written out: for each example the counts of all others, their direction over V logits, and one strength."""
    data = Drawn(90)
    tokens, fold = data.tokens(), data.example % 3
    fit = prior_fit(LabelLoss(tokens), torch.ones(90, 1), fold, among=every(fold))
    kappa, strength = fit.settings["kappa"], fit.settings["strength"]
    p = data.logits.double().softmax(-1)

    def direction(keep):
        labels = torch.bincount(data.labels[keep], minlength=VOCABULARY).double()
        expected = p[keep].sum(0)
        inside = torch.zeros(VOCABULARY, dtype=torch.bool).index_fill(0, tokens.tokens, True)
        d = ((labels + kappa) / (expected + kappa)).log()
        other = ((labels[~inside].sum() + kappa) / (expected[~inside].sum() + kappa)).log()
        return torch.where(inside, d - other, 0.0)

    torch.testing.assert_close(fit.weights[:, 0], strength * direction(every(fold))[tokens.tokens])
    left_out = torch.stack([direction(data.example != number) for number in data.example])
    mu = torch.tensor(strength, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(data.logits.double() + mu * left_out, data.labels).backward()
    assert abs(mu.grad) < 1e-5
    before = fit.by_fold[1]
    data.labels[fold == 1] = data.labels[fold == 1].roll(3)
    after = prior_fit(LabelLoss(data.tokens()), torch.ones(90, 1), fold, among=every(fold))
    torch.testing.assert_close(before, after.by_fold[1])
    assert not torch.allclose(before, after.by_fold[0])


def test_labels_that_seldom_repeat_give_the_prior_little_strength():
    """Labels drawn evenly, as the tuned model expects: with counts of their own they ask for a strength of 1."""
    make = torch.Generator().manual_seed(0)
    labels, logits = torch.randint(60, (120,), generator=make), torch.zeros(120, 61)
    collector = LabelCollector(label_tokens([labels]), 1)
    collector.update(logits, torch.zeros(120, 1), labels, torch.arange(120), torch.zeros(120, dtype=torch.int64))
    tokens, fold = collector.compute(), torch.arange(120) % 4
    fit = prior_fit(LabelLoss(tokens), torch.ones(120, 1), fold, among=every(fold))
    counts, expected = torch.bincount(labels, minlength=61).double(), 120 / 61
    d = ((counts + 0.1) / (expected + 0.1)).log()
    leaking = min(
        (F.cross_entropy(mu * d.expand(120, -1), labels).item(), mu) for mu in torch.linspace(0, 3, 31).tolist()
    )
    assert abs(fit.settings["strength"]) < 0.5 * leaking[1]


def test_scores_are_those_of_the_corrected_logits():
    data = Drawn()
    tokens = data.tokens()
    shift = torch.randn(len(data.labels), len(tokens.tokens), generator=torch.Generator().manual_seed(1))
    logits = data.logits.clone()
    logits[:, tokens.tokens] += shift
    expected = logits.log_softmax(-1).gather(-1, data.labels[:, None])[:, 0]
    torch.testing.assert_close(tokens.label_log_probs(shift).float(), expected)
    assert torch.equal(tokens.ranked_first(shift), logits.argmax(-1) == data.labels)


def test_nothing_to_fit_is_said(caplog):
    data = Drawn(4)
    data.labels = torch.tensor([3, 7, 11, 4])
    assert fit_corrections(LabelSplit(data.tokens()), folds=2) == []
    assert "no token is the label twice" in caplog.text
    assert fit_corrections(LabelSplit(Drawn(4).tokens()), folds=4) == [], "two examples"
    assert "they need 3 folds or more, got 2" in caplog.text


def test_one_answer_alone_is_no_evidence(caplog):
    data = Drawn()
    data.labels = torch.tensor([3, 7]).repeat(60)
    assert fit_corrections(LabelSplit(data.tokens()), folds=3) == []
    assert "every answer in the calibration split is the same" in caplog.text
    caplog.clear()
    data.labels[-1] = 11
    assert len(fit_corrections(LabelSplit(data.tokens()), folds=3)) == 3
    assert not caplog.text


def test_those_that_are_named_are_fitted():
    split = LabelSplit(Drawn().tokens())
    every = {one.name: one.labels for one in fit_corrections(split, folds=3)}
    [head] = fit_corrections(split, folds=3, names=["CalibratedHead"])
    assert torch.equal(head.labels, every["CalibratedHead"])
    assert fit_corrections(split, folds=3, names=[]) == []


def test_states_that_are_not_finite_leave_what_reads_none(caplog):
    data = Drawn()
    data.states[3] = math.nan
    assert [one.name for one in fit_corrections(LabelSplit(data.tokens()), folds=3)] == ["Prior", "LabelBias"]
    assert "calibrated head is not tried: the tuned model's hidden states hold NaN or infinity" in caplog.text


def test_a_head_of_another_model_is_refused():
    head = CalibratedHead(torch.tensor([3]), torch.zeros(1, HIDDEN + 1))
    with pytest.raises(
        InputError, match="fitted to states of 6 numbers, and the model gives its head 5; calibrate"
    ):
        head(torch.zeros(2, VOCABULARY), torch.zeros(2, HIDDEN))


def test_large_problems_are_made_smaller(monkeypatch, caplog):
    """States of three dimensions lose nothing by their principal components; tokens left out are scored still."""
    data = Drawn()
    data.states = data.states[:, :3] @ torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(5))
    whole = fit_corrections(LabelSplit(data.tokens()), folds=3)[2]
    monkeypatch.setattr(corrections, "_LEAST_COMPONENTS", 3)
    monkeypatch.setattr(corrections, "MAX_PRODUCTS", 1)
    caplog.set_level(logging.INFO, logger="svd_lightning")
    reduced = fit_corrections(LabelSplit(data.tokens()), folds=3)[2]
    assert "3 principal components of 5" in caplog.text
    torch.testing.assert_close(reduced.labels, whole.labels, atol=1e-3, rtol=1e-3)
    monkeypatch.setattr(corrections, "MAX_TOKENS", 90)
    fewer = fit_corrections(LabelSplit(data.tokens()), folds=3)[0]
    assert len(fewer.labels) == len(data.labels)
    assert "fitted to 90 of the 120 tokens" in caplog.text
    assert label_tokens([torch.tensor([5, 5, 5, 3, 3, 9, 9, 9])], most=2).tolist() == [5, 9]
