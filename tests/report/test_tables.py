"""What the terminal and Markdown tell of a calibration and a test; the page has tests of its own."""

import copy

import pytest
from rich.console import Console

from svd_lightning.report import ReportTable, Row, calibration_tables, held_out_tables
from svd_lightning.report.tables import candidate_table
from svd_lightning.report.words import named_strengths, short
from tests.report.cases import CASES


def printed(*parts, width=100):
    """Whole words, whatever the lines."""
    console = Console(width=width)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= width
    return " ".join(text.split())


def shown(record):
    return printed(*calibration_tables(record))


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


def test_other_strengths_in_use_have_their_intervals_too():
    record = copy.deepcopy(CASES["one-rule"]().record)
    record["used"] = {"rules": ["Temperature"], "strengths": [0.5], "intervals": [[0.25, 0.75]]}
    text = " ".join(candidate_table(record).notes)
    assert (
        f"interval: {named_strengths(record)}. Strength and 95 % interval: Temperature 0.5 [0.25, 0.75]." in text
    )


@pytest.mark.parametrize("case", CASES)
def test_every_row_has_a_cell_for_every_head(case):
    record = CASES[case]().record
    tables = [*calibration_tables(record), candidate_table(record, record), *held_out_tables(record, None)]
    for table in tables:
        if isinstance(table, ReportTable):
            assert {len(row.cells) for row in table.rows} == {len(table.heads)}
        else:
            assert table in (record["message"], *record["advice"])


def test_at_most_one_row_is_in_use_and_bold_in_markdown():
    record = CASES["one-rule"]().record
    table = candidate_table(record)
    [row] = [row for row in table.rows if row.used]
    lines = table.markdown().splitlines()
    assert [line for line in lines if "**" in line] == [f"| **{row.cells[0]}** | {' | '.join(row.cells[1:])} |"]
    assert len(lines) == 2 + len(table.rows) + 2
    assert lines[-1] == " ".join(table.notes)


def test_cells_hold_no_markup_for_any_reader():
    table = ReportTable("[red]t", ("task", "x"), (Row(("[bold]a|b<i>", "1 [0, 2]\n3")),), ("[blue]n",))
    text = printed(table)
    assert all(word in text for word in ("[red]t", "[bold]a|b<i>", "1 [0, 2]", "[blue]n"))
    assert r"| [bold]a\|b<i> | 1 [0, 2], 3 |" in table.markdown()
    assert "[bold]a|b&lt;i&gt;" in table.__html__()


def test_where_there_were_no_questions_nothing_is_said_of_answers():
    nothing = {"questions": 0, "examples": 3, "metrics": {}}
    assert not [*held_out_tables(None, {**nothing, "distributions": {}, "tasks": {"a": nothing}})]
