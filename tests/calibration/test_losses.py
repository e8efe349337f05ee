"""The losses of corrections against autograd over the whole vocabulary."""

import pytest
import torch
import torch.nn.functional as F

from svd_lightning.calibration import LabelSplit, fit_corrections
from svd_lightning.calibration.losses import ChoiceLoss, LabelLoss
from svd_lightning.metrics import Options, mc1
from svd_lightning.objective import Choices, LabelCollector
from svd_lightning.steering import CalibratedHead

VOCABULARY, HIDDEN = 17, 4


class Asked:
    """Questions of three options, of one to three tokens each or of one; which is right depends on the state."""

    def __init__(self, questions=40, *, seed=0, long=True):
        make = torch.Generator().manual_seed(seed)
        state = torch.randn(questions, HIDDEN, generator=make)
        right = (state @ torch.randn(HIDDEN, 3, generator=make)).argmax(-1)
        self.rows, self.states, self.labels = [], [], []
        for question in range(questions):
            for option in range(3):
                for position in range(1 + (question + option) % 3 if long else 1):
                    self.rows.append((question * 3 + option, position))
                    self.states.append(state[question] if position == 0 else torch.randn(HIDDEN, generator=make))
                    label = 2 + option if position == 0 else torch.randint(5, VOCABULARY, (), generator=make)
                    self.labels.append(int(label))
        self.logits = 0.3 * torch.randn(len(self.rows), VOCABULARY, generator=make)
        number = torch.arange(questions)
        best = (torch.arange(3) == right[:, None]).flatten()
        self.choices = Choices(
            number, torch.arange(3 * questions), Options(number.repeat_interleave(3), best, best)
        )

    def collected(self, rows, example):
        collector = LabelCollector(torch.tensor([2, 3, 4, 9]), HIDDEN)
        places = torch.tensor([position for _, position in self.rows])
        fields = (self.logits, torch.stack(self.states), torch.tensor(self.labels), example, places)
        collector.update(*(field[rows] for field in fields))
        return collector.compute()

    @property
    def option(self):
        return torch.tensor([row for row, _ in self.rows])

    def split(self):
        options = self.collected(slice(None), self.option)
        answers = self.collected(self.choices.options.best[self.option], self.option // 3)
        return LabelSplit(answers, options, self.choices)


@pytest.mark.parametrize("part", [None, 13], ids=["all", "some"])
@pytest.mark.parametrize("by_choice", [False, True], ids=["likelihood", "choice"])
def test_value_and_gradient(by_choice, part):
    asked = Asked()
    split = asked.split()
    loss = split.loss(choice=by_choice)
    assert isinstance(loss, ChoiceLoss if by_choice else LabelLoss)
    rows = torch.ones(len(asked.rows), dtype=torch.bool)
    if part is not None:
        loss, rows = loss.part(loss.unit < part), asked.option // 3 < part
    best, option, labels = asked.choices.options.best, asked.option, torch.tensor(asked.labels)
    if not by_choice:
        rows = rows & best[option]
    shift = torch.randn(int(rows.sum()), 5, generator=torch.Generator().manual_seed(1))
    shift[:, -1] = 0.0
    moved = shift.double().requires_grad_()
    logits = asked.logits[rows].double().index_add(1, torch.tensor([2, 3, 4, 9]), moved[:, :-1])
    if by_choice:
        log_p = logits.log_softmax(-1).gather(-1, labels[rows, None])[:, 0]
        scores = torch.zeros(len(best), dtype=torch.float64).index_add(0, option[rows], log_p)
        chosen = scores.view(-1, 3).log_softmax(-1)[best.view(-1, 3)]
        slow = -(chosen if part is None else chosen[:part]).mean()
        count = len(chosen) if part is None else part
    else:
        slow, count = F.cross_entropy(logits, labels[rows]), int(rows.sum())
    slow.backward()
    value, gradient = loss(shift)
    assert value == pytest.approx(slow.item(), rel=1e-5)
    assert loss.total(shift[:, :-1]) == pytest.approx(slow.item() * count, rel=1e-5)
    torch.testing.assert_close(gradient[:, :-1].double(), moved.grad[:, :-1], atol=1e-6, rtol=1e-4)


def test_a_head_for_the_choice_answers_questions_that_it_has_not_seen():
    """Fitted to the choice, it ranks the right option first where the tuned model guesses."""
    asked = Asked(150, long=False)
    with torch.inference_mode():  # as Lightning's validate has it
        fitted = {one.name: one for one in fit_corrections(asked.split(), folds=3)}
    head = fitted["CalibratedHead"]
    assert isinstance(head.correction, CalibratedHead)
    answered = mc1(asked.choices.options, head.options).mean()
    split = asked.split()
    tuned = torch.zeros(len(asked.choices.row), dtype=torch.float64)
    tuned.index_add_(0, split.options.example, split.options.label_log_p.double())
    assert answered > mc1(asked.choices.options, tuned).mean() + 0.2
