"""What the tests cost: CPU seconds of each file, its child processes included.

    PYTHONPATH=. pytest -p benchmarks.suite --numprocesses 3 --dist loadfile --no-loadscope-reorder

It adds a table to the end, the dearest file first. `time` leaves out what the tests fork: their parent outlives
the worker that started it.
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

SHOWN = 40
COST = "cpu_seconds"


def cpu_seconds() -> float:
    """Of this process and of all below it, those that have ended too."""
    this = psutil.Process()
    total = time.process_time() + sum(this.cpu_times()[2:4])
    for child in this.children(recursive=True):
        try:
            total += sum(child.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Note what a test and the fixtures that it starts cost, in the report of its end."""
    before = cpu_seconds()
    item.user_properties.append((COST, lambda: cpu_seconds() - before))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    report = yield
    report.user_properties = [(COST, measure()) for _, measure in item.user_properties if call.when == "teardown"]
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    costs: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, seconds in getattr(report, "user_properties", ()):
                costs[report.nodeid.partition("::")[0]] += seconds if name == COST else 0.0
    terminalreporter.section(f"{sum(costs.values()):.0f} CPU seconds")
    for file, seconds in costs.most_common(SHOWN):
        terminalreporter.write_line(f"{seconds:7.1f} {file}")
