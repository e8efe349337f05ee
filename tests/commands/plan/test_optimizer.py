"""The state of an optimizer on the meta device against that of one that has stepped."""

from functools import partial

import pytest
import torch

from svd_lightning.commands.plan.optimizer import state_bytes
from svd_lightning.errors import InputError

SHAPES = [((3, 4), torch.float32), ((5,), torch.bfloat16)]


@pytest.mark.parametrize(
    "factory",
    [
        partial(torch.optim.AdamW, lr=1e-3),
        partial(torch.optim.AdamW, lr=1e-3, amsgrad=True),
        partial(torch.optim.SGD, lr=1e-3),
        partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
        partial(torch.optim.RMSprop, lr=1e-3),
    ],
)
def test_it_is_the_real_one(factory):
    parameters = [torch.ones(shape, dtype=dtype, requires_grad=True) for shape, dtype in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = factory(parameters)
    optimizer.step()
    values = [value for state in optimizer.state.values() for value in state.values()]
    assert state_bytes(factory, SHAPES) == sum(v.numel() * v.itemsize for v in values if torch.is_tensor(v))


def test_nothing_to_train():
    assert state_bytes(torch.optim.AdamW, []) == 0


def test_one_that_looks_at_numbers_is_refused():
    with pytest.raises(InputError, match=r"^model\.optimizer: Adafactor cannot be asked .*AdamW"):
        state_bytes(torch.optim.Adafactor, SHAPES)
