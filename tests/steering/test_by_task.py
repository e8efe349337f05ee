"""Rows of several tasks: each as its own steering does it alone."""

import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.steering import KLGradient, RowSteering, Steering, TaskSteering, Temperature

NEAR = Steering([KLGradient()], strengths=[0.5], penalty=-1.0)
FAR = Steering([KLGradient()], strengths=[20.0])
SHARP = Steering([Temperature()], strengths=[0.3])
TASKS = TaskSteering(NEAR, {"far": FAR, "sharp": SHARP})


def logits(*shape):
    return torch.randn(2, *shape, 11, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(), (3,)], ids=["tokens", "positions"])
@pytest.mark.parametrize("copies", [1, 2, 4])
def test_each_row_and_its_copies_as_if_alone(copies, shape):
    steerings = [FAR, NEAR, FAR, SHARP]
    tuned, base = logits(4 * copies, *shape)
    steered = RowSteering(steerings)(tuned, base)
    for place in range(4 * copies):
        alone = steerings[place // copies](tuned[place], base[place])
        torch.testing.assert_close(steered[place], alone, rtol=0, atol=0)


def test_tokens_out_of_a_batch():
    rows = torch.tensor([2, 0, 0, 1, 2])
    tuned, base = logits(5)
    steered = RowSteering([FAR, NEAR, SHARP]).of(rows)(tuned, base)
    expected = [(FAR, NEAR, SHARP)[row](tuned[i], base[i]) for i, row in enumerate(rows)]
    torch.testing.assert_close(steered, torch.stack(expected), rtol=0, atol=0)
    assert RowSteering([FAR, NEAR]).of(rows[:0])(tuned[:0], base[:0]).shape == (0, 11)


def test_every_function_can_be_changed():
    tuned, base = logits(2)
    changed = RowSteering([FAR, NEAR]).map(lambda one: one.with_penalty(0.0))(tuned, base)
    torch.testing.assert_close(changed[0], FAR.with_penalty(0.0)(tuned[0], base[0]))
    assert changed.isfinite().all()


def test_another_number_of_rows_is_refused():
    with pytest.raises(InputError, match="logits: expected a multiple of 3 rows, one steering each, got 4"):
        RowSteering([FAR, NEAR, FAR])(*logits(4))


def test_a_batch_settles_where_each_row_needs_no_base():
    sure, unsure = torch.tensor([[9.0, 0.0], [1.0, 1.0]])
    both = torch.stack([sure, unsure])
    assert RowSteering([FAR, SHARP]).settles(both), "one token is left, and sharpening reads no base"
    assert not RowSteering([SHARP, FAR]).settles(both)
    assert not RowSteering([NEAR, SHARP]).settles(both), "a finite penalty forbids nothing"
    assert not RowSteering([FAR, FAR]).settles(sure[None]), "other rows than the steering's"


def test_the_steering_of_a_task():
    assert [TASKS.of_task(task) for task in ("far", "sharp", "unheard of", None)] == [FAR, SHARP, NEAR, NEAR]
    assert not TaskSteering(Steering()).calibrated


def test_a_batch_of_no_task_has_the_shared_steering_itself():
    assert TASKS.of_batch({"task": ["unheard of", None]}) is NEAR
    assert TASKS.of_batch({}) is NEAR
    assert TaskSteering(NEAR).of_batch({"task": ["far"]}) is NEAR
    tuned, base = logits(2)
    mixed = TASKS.of_batch({"task": ["far", None]})(tuned, base)
    torch.testing.assert_close(mixed, torch.stack([FAR(tuned[0], base[0]), NEAR(tuned[1], base[1])]))
