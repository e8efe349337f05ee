"""What the terminal tells of a calibration."""

import copy

import pytest
from rich.console import Console

from svd_lightning.callbacks.tables import calibration_tables
from svd_lightning.report.words import short
from tests.report.cases import CASES


def shown(record, *, width=100):
    """Whole words, whatever the lines."""
    console = Console(width=width)
    with console.capture() as capture:
        for part in calibration_tables(record):
            console.print(part)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= width
    return " ".join(text.split())


@pytest.mark.parametrize("case", ["one-rule", "two-rules"])
def test_the_chosen_strengths_come_with_their_intervals(case):
    record = CASES[case]().record
    text = shown(record)
    for rule, strength, (low, high) in zip(record["rules"], record["strengths"], record["intervals"], strict=True):
        assert f"{rule} {short(strength)} [{short(low)}, {short(high)}]" in text


def test_a_strength_without_one_says_so_and_an_old_record_says_nothing():
    record = copy.deepcopy(CASES["one-rule"]().record)
    record["intervals"] = record["used"]["intervals"] = None
    assert f"KLGradient {short(record['strengths'][0])} (no interval)" in shown(record)
    del record["intervals"], record["used"]["intervals"]
    assert "interval:" not in shown(record)
