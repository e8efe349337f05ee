"""The line: places, order, and who may stand beside whom; without a model."""

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from svd_lightning.commands.serve.line import ClosedError, FullError, Line


@dataclass(eq=False)
class Waiter:
    """What the line looks at."""

    scale: float = 1.0
    gone: bool = False
    choice: int = 0
    told: list = field(default_factory=list)
    row: SimpleNamespace = field(init=False)

    def __post_init__(self):
        self.row = SimpleNamespace(adapter_scale=self.scale)
        self.tell = self.told.append


def test_first_come_first_served_within_the_places():
    line, (a, b, c, d) = Line(3), [Waiter() for _ in range(4)]
    line.enter([a, b])
    with pytest.raises(FullError):
        line.enter([c, d])  # not even one of them
    line.enter([c])
    assert line.take(2, []) == [a, b]
    assert (len(line), line.waiting) == (3, 1)
    line.leave([a])
    line.enter([d])
    assert line.take(9, [b]) == [c, d]


def test_who_leaves_while_waiting_is_not_served():
    line, (a, b) = Line(2), [Waiter() for _ in range(2)]
    line.enter([a, b])
    line.leave([a])
    line.leave([a])
    assert a.gone
    assert line.take(2, []) == [b]
    assert len(line) == 1


def test_only_one_scale_is_served_at_a_time_and_nobody_overtakes():
    line = Line(9)
    full, half, other = Waiter(), Waiter(0.5), Waiter()
    line.enter([full, half, other])
    assert line.take(9, []) == [full]
    assert not line.joins([full])
    assert line.take(9, [full]) == []
    assert line.take(9, []) == [half]
    assert line.joins([full])
    assert not line.joins([half])


def test_a_closed_line_wakes_who_takes_and_lets_nobody_in():
    line, waiter, found = Line(2), Waiter(), []
    taker = threading.Thread(target=lambda: found.append(line.take(1, [])))
    taker.start()
    line.close()
    taker.join(60)
    assert found == [[]]
    with pytest.raises(ClosedError):
        line.enter([waiter])


def test_who_is_inside_when_it_closes_is_told():
    line, (a, b) = Line(2), [Waiter() for _ in range(2)]
    line.enter([a, b])
    assert line.take(1, []) == [a]
    line.close()
    for one in (a, b):
        assert one.gone
        assert isinstance(one.told[0].problem, ClosedError)
    assert (len(line), line.waiting, line.take(1, [])) == (0, 0, [])
