"""The published figures are carried over without an error."""

import json
from statistics import fmean

import pytest

from svd_lightning.commands.sweep.published import load_published
from svd_lightning.errors import InputError
from tests.chain import ROOT

FILES = sorted((ROOT / "configs" / "paper").glob("*.yaml"))
AVERAGES = {"MC_avg": ("MC1", "MC2", "MC3"), "open_avg": ("truth", "info", "truth_info"), "avg": slice(0, 8)}


def in_json(table):
    """Every figure of a table of paper_tables.json: (labels, method, column, figure)."""
    common = {name: table[name] for name in ("model", "peft") if name in table}
    rows = [
        *table.get("rows", []),
        *({"mask": name} | table for name in ("with_mask", "without_mask") if name in table),
    ]
    for row in rows:
        labels = common | {name: row[name] for name in ("model", "peft", "decoding", "mask") if name in row}
        by_method = {method: row[method] for method in ("warm_start", "svdecode") if method in row}
        by_method |= {row["method"]: row["values"]} if "method" in row else {}
        by_method |= {"svdecode": table[row["mask"]]} if "mask" in row else {}
        for method, values in by_method.items():
            yield from ((labels, method, column, v) for column, v in zip(table["columns"], values, strict=True))


def test_every_figure_is_the_same_and_none_is_left_out(shared):
    tables = json.loads((shared / "paper_tables.json").read_text())
    assert tables.pop("source") == "arXiv 2509.15888, values in percent"
    assert {path.stem for path in FILES} == set(tables)
    for path in FILES:
        ours, theirs = load_published(path), list(in_json(tables[path.stem]))
        assert (ours.source, ours.columns) == ("arXiv 2509.15888", tuple(tables[path.stem]["columns"]))
        assert path.stem.startswith(f"table{ours.table}_")
        for labels, method, column, value in theirs:
            assert ours.figure(labels, method, column) == value, (path.stem, labels, method, column)
        assert sum(len(values) for _, values in ours.rows) == len(theirs) > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_printed_averages_are_those_of_their_columns(path):
    table = load_published(path)
    for labels, values in table.rows:
        row = dict(zip(table.columns, values, strict=True))
        for column in AVERAGES.keys() & row.keys():
            parts = values[AVERAGES[column]] if column == "avg" else [row[name] for name in AVERAGES[column]]
            assert row[column] == pytest.approx(fmean(parts), abs=0.25), labels


def test_a_place_without_a_figure_has_none():
    table = load_published(ROOT / "configs/paper/table3_mask_ablation.yaml")
    labels = {"model": "Qwen2.5-7B", "peft": "lora", "mask": "without_mask"}
    assert table.figure(labels, "svdecode", "truth") == 0.02
    assert table.figure(labels, "warm_start", "truth") is None
    assert table.figure(labels, "svdecode", "MC1") is None
    assert table.figure({**labels, "model": "wiki-tiny"}, "svdecode", "truth") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: []", "expected source, table, unit"),
        (
            "{source: s, table: 1, unit: percent, columns: [a], rows: [{method: m, values: [1, 2]}]}",
            "1 values in percent",
        ),
        (
            "{source: s, table: 1, unit: percent, columns: [a], rows: [{method: m, values: [x]}]}",
            "expected source",
        ),
        ("{source: s, table: 1, unit: share, columns: [a], rows: []}", "in percent"),
        ("{", "expected a readable YAML file"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "table.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_published(tmp_path / "table.yaml")
