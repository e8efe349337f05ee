"""The fit of the adapter's scale against a slow search over the whole vocabulary."""

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from svd_lightning.calibration import HeldOutSteering, LabelSplit, calibrate, fit_scale, recall_all
from svd_lightning.calibration.scale import MOST, search_scale
from svd_lightning.calibration.split import example_folds
from svd_lightning.metrics import Options
from svd_lightning.objective import Choices, LabelCollector, TokenCollector
from svd_lightning.steering import AdapterScale, KLGradient, Steering, with_built_in
from svd_lightning.strength import LineSearch

VOCABULARY, FOLDS = 7, 4
GRID = [1.25**power for power in range(-MOST, MOST + 1)]


@dataclass
class Linear:
    """Tokens whose logits are z(s) = base + s · effect."""

    base: torch.Tensor
    effect: torch.Tensor
    labels: torch.Tensor
    example: torch.Tensor
    position: torch.Tensor

    def logits(self, scale):
        return self.base + scale * self.effect

    def tokens(self, scale):
        collector = LabelCollector(torch.zeros(0, dtype=torch.int64), 0)
        nothing = torch.zeros(len(self.labels), 0)
        collector.update(self.logits(scale), nothing, self.labels, self.example, self.position)
        return collector.compute()

    def log_probs(self, scale):
        return -F.cross_entropy(self.logits(scale).double(), self.labels, reduction="none")


def drawn(count=120, *, best, seed=0):
    """Labels that the model at scale `best` would write, a number or one for each token; two in each example."""
    make = torch.Generator().manual_seed(seed)
    base, effect = (torch.randn(count, VOCABULARY, generator=make) for _ in range(2))
    truth = base + torch.as_tensor(best).view(-1, 1) * effect
    labels = torch.multinomial(truth.softmax(-1), 1, generator=make).squeeze(-1)
    return Linear(base, effect, labels, torch.arange(count) // 2, torch.arange(count) % 2)


def fit(data):
    asked = []

    def at(scale):
        asked.append(scale)
        return LabelSplit(data.tokens(scale))

    return fit_scale(LabelSplit(data.tokens(1.0)), at, folds=FOLDS, choice=True), asked


def fold_of(data):
    """Of each token."""
    numbers, fold = example_folds(data.example, FOLDS)
    return fold[torch.searchsorted(numbers, data.example)]


def held_out_scales(fitted, data):
    """The scale at which each fold was scored, found from its scores."""
    fold, found = fold_of(data), []
    for one in range(FOLDS):
        mine = fold == one
        apart = [(fitted.labels[mine] - data.log_probs(scale)[mine]).abs().max().item() for scale in GRID]
        assert min(apart) < 1e-5
        found.append(GRID[apart.index(min(apart))])
    return found


@pytest.mark.parametrize("best", [0.05, 0.33, 0.6, 0.85, 0.95, 1.0, 1.1, 1.5, 2.0, 3.0, 40.0])
def test_the_search_finds_a_known_optimum(best):
    """In the logarithm of the scale, where the steps are even: the nearest of all of them, or an end."""
    asked = []

    def nll(scale):
        asked.append(scale)
        return math.log(scale / best) ** 2

    assert search_scale(nll) == pytest.approx(min(GRID, key=lambda scale: abs(math.log(scale / best))))
    assert len(set(asked)) <= 7


def test_a_scale_at_which_the_model_breaks_is_not_taken():
    broken = {1.0: 1.0, 1.25: math.inf, 0.8: 0.5}
    assert search_scale(lambda scale: broken.get(scale, math.inf)) == 0.8
    assert search_scale(lambda scale: math.inf if scale != 1.0 else 1.0) == 1.0
    data = drawn(best=2.0)
    data.effect[3, 0] = math.nan
    fitted = fit_scale(
        LabelSplit(drawn(best=2.0).tokens(1.0)), lambda scale: LabelSplit(data.tokens(scale)), folds=4, choice=True
    )
    assert fitted.correction == AdapterScale(1.0)
    assert fitted.labels.isfinite().all()


def test_the_scale_is_found_on_all_examples_and_without_each_fold():
    """Written out: every scale of the grid, on the whole vocabulary, of each set of examples. The folds differ."""
    data = drawn(best=torch.tensor([0.5, 3.0]).repeat_interleave(2).repeat(30), seed=3)
    data.labels = torch.where(fold_of(data) < 2, data.logits(4.0).argmax(-1), data.labels)
    fitted, asked = fit(data)
    fold = fold_of(data)

    def best(among):
        nll = {scale: -data.log_probs(scale)[among].mean().item() for scale in GRID}
        return min(nll, key=nll.get)

    expected = [best(fold != one) for one in range(FOLDS)]
    assert len(set(expected)) > 1
    assert held_out_scales(fitted, data) == expected
    whole = best(torch.ones_like(fold, dtype=torch.bool))
    assert fitted.correction == AdapterScale(whole)
    assert fitted.settings == {"scale": whole}
    assert fitted.by_fold == [fitted.correction] * FOLDS
    assert fitted.nll == pytest.approx(-data.log_probs(whole).mean().item(), abs=1e-6)
    first = (data.logits(whole).argmax(-1) == data.labels).double().mean().item()
    assert fitted.accuracy == first
    assert len(asked) == len(set(asked)), "each scale is computed once"
    assert 1.0 not in asked


def test_a_folds_labels_do_not_reach_what_scores_them():
    data = drawn(best=2.0)
    before = held_out_scales(fit(data)[0], data)
    mine = fold_of(data) == 2
    data.labels[mine] = data.logits(-3.0).argmax(-1)[mine]
    after = held_out_scales(fit(data)[0], data)
    assert after[2] == before[2]
    assert after[1] < before[1]


def test_nothing_is_left_to_gain_at_the_right_scale():
    fitted, asked = fit(drawn(600, best=1.0))
    assert fitted.correction == AdapterScale(1.0)
    assert set(asked) == {1.25, 0.8}


@pytest.mark.parametrize(("choice", "larger"), [(True, True), (False, False)])
def test_where_the_choice_is_fitted_it_decides(choice, larger):
    """The options ask for a larger scale, the tokens of the right answers for a smaller one."""
    answers = drawn(80, best=0.4)
    number = torch.arange(40)
    rows, question = torch.arange(80), torch.arange(40).repeat_interleave(2)
    words = drawn(80, best=1.0, seed=5)
    right, wrong = words.logits(5.0)[::2].argmax(-1), words.logits(5.0)[::2].argmin(-1)
    words = Linear(
        words.base[::2].repeat_interleave(2, 0),
        words.effect[::2].repeat_interleave(2, 0),
        torch.stack([right, wrong], 1).flatten(),
        rows,
        torch.full((80,), 7),
    )
    choices = Choices(number, rows, Options(question, rows % 2 == 0, rows % 2 == 0))

    def at(scale):
        return LabelSplit(answers.tokens(scale), words.tokens(scale), choices)

    fitted = fit_scale(at(1.0), at, folds=FOLDS, choice=choice)
    assert (fitted.correction.scale > 1.0) is larger
    found, fold = held_out_scales(fitted, answers), fold_of(answers)[::2]
    for one, scale in enumerate(found):
        mine = fold[question] == one
        torch.testing.assert_close(fitted.options[mine], words.log_probs(scale)[mine], atol=1e-5, rtol=0)


@pytest.mark.parametrize("odd_one", [3.0, 0.3], ids=["alike", "harmed"])
def test_tasks_share_the_scale_which_may_harm_none(odd_one):
    """A batch has one scale, so all examples decide for every task; what surely harms one of them is not used."""
    data = drawn(960, best=torch.where(torch.arange(960) % 8 < 6, 3.0, odd_one))
    tasks = {number: "odd" if number % 4 == 3 else "most" for number in range(480)}
    steering = Steering([KLGradient()], alpha=0.3)
    collector = TokenCollector(with_built_in(steering.rules), alpha=0.3, tasks=tasks)
    base = data.logits(1.0) + torch.randn(data.base.shape, generator=torch.Generator().manual_seed(1))
    collector.update(data.logits(1.0), base, data.labels, data.example, data.position)
    fitted, _ = fit(data)
    options = {"corrections": [fitted], "folds": FOLDS, "others": False}
    record = calibrate(collector.compute(), steering, LineSearch(), **options)
    if odd_one < 1.0:
        assert record["corrections"][0]["gain"]["low"] > 0.0
        assert "correction" not in record["used"]
        return
    assert record["used"]["correction"] == "AdapterScale"
    most, odd = record["tasks"]
    assert most["used"] == odd["used"] == record["used"]
    assert most["judged_by"] == odd["judged_by"] == "pool"
    assert most["message"] == odd["message"] == record["message"]
    used = recall_all(steering, record, {fitted.name: fitted.correction})
    assert used.of_batch({"task": ["most", "odd", None]}) is used.shared
    assert used.adapter_scale == fitted.correction.scale
    held_out = HeldOutSteering(steering, record, data.example, {fitted.name: fitted.by_fold})
    rows = held_out.of_batch({"index": torch.tensor([0, 1, 2, 3]), "task": ["most", "most", "most", "odd"]})
    assert rows.adapter_scale == fitted.correction.scale
