"""The count of live bytes, on numbers that are known."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from svd_lightning.planning.live import LiveBytes
from tests.planning.measured import peak_of


def chain(x):
    a = x * 2  # 400 bytes
    b = (a + 1).view(10, 10)  # 400 more; a view is no storage of its own
    del a
    return b.t().contiguous() * b  # 400 more each


def test_peak_and_rest():
    x = torch.ones(100)
    with LiveBytes([x]) as live:
        kept = x * 2
        del kept
        kept = (x + 1)[:5]
        assert x.view(10, 10) is not None
    assert (live.now, live.peak) == (400, 400)
    del kept
    assert live.now == 0


def test_agrees_with_the_allocator():
    x = torch.ones(100)
    with LiveBytes([x]) as live:
        chain(x)
    assert live.peak == peak_of(lambda: chain(x))[0] == 1200


def test_tensors_without_numbers_count_the_same_backwards_too():
    def loss(weight, x):
        torch.tanh(torch.tanh(x @ weight)).sum().backward()

    real = torch.ones(30, 30, requires_grad=True), torch.ones(7, 30)
    with LiveBytes(real) as live:
        loss(*real)
    with FakeTensorMode():
        fake = torch.ones(30, 30, requires_grad=True), torch.ones(7, 30)
        with LiveBytes(fake) as blank:
            loss(*fake)
    assert blank.peak == live.peak > 3600
