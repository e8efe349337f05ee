"""What calibration and test write into the run folder, and how the report reads it."""

import json
import logging
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from svd_lightning.errors import InputError
from svd_lightning.files import parse_json, write_json, write_text
from svd_lightning.objective import TokenTable
from svd_lightning.objective.stored import load_table, save_table
from svd_lightning.records import (
    CalibrationRecord,
    DistributionRecord,
    HeldOutMetricsRecord,
    HeldOutTableRecord,
    HistoryRecord,
    TestResults,
    UsedRecord,
)
from svd_lightning.steering import (
    Agreement,
    ConfidentSet,
    Divergence,
    Entropy,
    SteeringRule,
    expand,
    rule_name,
    with_built_in,
)

RECORD, TABLE, HISTORY = "calibration.json", "calibration_table.safetensors", "calibration_history.jsonl"
TEST, METRICS = "test.json", "test_metrics.json"
_KEPT = tuple(HistoryRecord.__annotations__)
_LIBRARIES = ("svd-lightning", "torch", "lightning", "transformers", "peft", "torchmetrics", "safetensors")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The contents of a run folder."""

    folder: Path
    record: CalibrationRecord
    """The last calibration, as `svd_lightning.calibration.calibrate` returned it."""
    history: list[HistoryRecord]
    """A few numbers of every calibration, the oldest first."""
    table: TokenTable | None
    """The tokens of the last calibration; None where they were not kept."""
    rules: tuple[SteeringRule, ...] | None
    """The record's rules; None where one of them is not built in."""
    test: HeldOutTableRecord | None
    """The same candidates on the test split."""
    metrics: HeldOutMetricsRecord | None
    """How the questions of the test split were answered, where it has some."""
    config: str | None
    """The text of config.yaml."""
    notes: tuple[str, ...] = ()
    """Why something is missing."""


def save_calibration(folder: Path, record: CalibrationRecord, table: object) -> None:
    """Write the record, its line of the history, and the tokens if they are a `TokenTable`.

    An error while writing the tokens is only logged.
    """
    write_json(folder / RECORD, {**record, "versions": versions()})
    write_history(folder / HISTORY, record)
    if not isinstance(table, TokenTable):
        return  # without a mask there is no table
    try:
        save_table(table, folder / TABLE, metadata={"global_step": str(record["global_step"])})
    except OSError as error:
        _log.warning("calibration: cannot keep the calibration table for the report: %s", error)


def save_test(folder: Path, results: TestResults, *, data: str, global_step: int | None) -> None:
    """Write the results of a test: `test_metrics.json`, and with a mask `test.json`.

    Args:
        folder: older results there are replaced.
        results: of the test.
        data: the digest of the test split.
        global_step: step of the weights that the calibration was made with; None if there was none.
    """
    if results.table is not None:
        write_json(folder / TEST, results.table)
    write_json(folder / METRICS, {**results.metrics, "data": data, "global_step": global_step})


def tested_data(folder: Path) -> str | None:
    """Return the digest of the test split whose results a folder holds; None where it holds none, or old ones."""
    path = folder / METRICS
    return _read_json(path, remedy="").get("data") if path.exists() else None


def of_calibration(metrics: HeldOutMetricsRecord, record: CalibrationRecord) -> bool:
    """Return whether a test measured what this calibration put in use; old results do not say their step."""
    used, tested = record["used"], metrics["distributions"].get("steered")
    same_step = metrics.get("global_step", record.get("global_step")) == record.get("global_step")
    if tested is None or tested["estimator"] is None:  # the user gave strengths, or wanted none
        return same_step
    return same_step and _moving(tested) == _moving(used)


def _moving(part: DistributionRecord | UsedRecord) -> str | list[tuple[str, float]]:
    """Return what differs from the tuned model: a correction's name, or the rules that have a strength."""
    rules = zip(part["rules"], part["strengths"], strict=False)
    return part.get("correction") or [(rule, strength) for rule, strength in rules if strength]


def write_history(path: Path, record: CalibrationRecord) -> None:
    """Append a calibration; lines of the same step or later ones, which a resumed run repeats, are dropped."""
    before = [row for row in read_history(path) if row["global_step"] < record["global_step"]]
    write_text(path, "".join(json.dumps(row) + "\n" for row in [*before, _history_row(record)]))


def read_history(path: Path) -> list[HistoryRecord]:
    """Read the lines of a history; none where there is no file.

    Raises:
        InputError: for a file that is not a history.
    """
    if not path.exists():
        return []
    rows = [_parsed(path, line) for line in path.read_text(encoding="utf-8").splitlines()]
    if any(not isinstance(row, dict) or set(_KEPT) - set(row) for row in rows):
        raise InputError(f"{path}: expected {', '.join(_KEPT)} in every line; delete the file")
    return rows


def load_run(folder: Path, *, test: Path | None = None) -> Run:
    """Read a run folder.

    Args:
        folder: holds `calibration.json`; the other files may be missing.
        test: another run folder with the test results, where `test` ran on its own.

    Raises:
        InputError: if there is no calibration, or a file is damaged.
    """
    record = cast(CalibrationRecord, _read_json(folder / RECORD, remedy=_remedy(folder)))
    missing = {"candidates", "used", "message", "strengths", "rules"} - set(record)
    if missing:
        raise InputError(
            f"{folder / RECORD}: expected a calibration, got one without {', '.join(sorted(missing))}"
        )
    table, notes = _table_of(folder, record)
    rules = _rules(record["rules"])
    if rules is None:
        notes += ("A rule of this run is not built in, so its curves cannot be drawn again here.",)
    tested, path = ((test or folder) / name for name in (TEST, METRICS))
    metrics = cast(HeldOutMetricsRecord, _read_json(path, remedy="")) if path.exists() else None
    if metrics is not None and not of_calibration(metrics, record):
        notes += (f"{path.name} is of another calibration than {RECORD}: test again.",)
    config = folder / "config.yaml"
    return Run(
        folder,
        record,
        read_history(folder / HISTORY) or [_history_row(record)],
        table,
        rules,
        cast(HeldOutTableRecord, _read_json(tested, remedy="run `svd-lightning test` first"))
        if test or tested.exists()
        else None,
        metrics,
        config.read_text(encoding="utf-8") if config.exists() else None,
        notes,
    )


def _history_row(record: CalibrationRecord) -> HistoryRecord:
    """Return a record's line of the history; None for fields that an old record lacks."""
    return cast(HistoryRecord, {name: record.get(name) for name in _KEPT})


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries on which the numbers depend."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _table_of(folder: Path, record: CalibrationRecord) -> tuple[TokenTable | None, tuple[str, ...]]:
    path = folder / TABLE
    if not path.exists():
        return None, (f"There is no {TABLE}, so the curves are left out: calibrate again with this version.",)
    table, about = load_table(path)
    if about.get("global_step") != str(record.get("global_step")):
        return None, (f"{TABLE} comes from another step than {RECORD}, so the curves are left out.",)
    return table, ()


def _rules(names: Sequence[str]) -> tuple[SteeringRule, ...] | None:
    built_in = expand((*with_built_in(()), ConfidentSet()), (Entropy(), Divergence(), Agreement()))
    by_name = {rule_name(rule): rule for rule in built_in}
    return tuple(by_name[name] for name in names) if set(names) <= set(by_name) else None


def _remedy(folder: Path) -> str:
    """Suggest where the calibration may be instead."""
    below = sorted(folder.glob(f"version_*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    if below:
        return f"did you mean {below[-1].parent}?"
    return "give the run folder of `svd-lightning fit`, `calibrate` or `demo`, such as runs/demo/version_0"


def _read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path.parent}: expected a run folder with {path.name}, and there is none; {remedy}")
    content = _parsed(path, path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _parsed(path: Path, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, got a damaged file ({error})") from error
