"""What a calibration and a test show: their progress, a short table on the terminal, all tables in the log."""

import logging
from collections.abc import Iterable, Iterator

import lightning as L
from rich.progress import track

from svd_lightning.console import as_text, console
from svd_lightning.data import Batch
from svd_lightning.records import CalibrationRecord, TestResults
from svd_lightning.report import (
    ReportTable,
    calibration_answer,
    calibration_tables,
    held_out_answer,
    held_out_tables,
)

_log = logging.getLogger(__name__)


def show_calibration(record: CalibrationRecord, *, printed: bool = True) -> None:
    """Log a calibration with every candidate; print, if asked to, what was found, the verdict and advice."""
    _show(calibration_answer(record) if printed else (), calibration_tables(record))


def show_test(results: TestResults, *, printed: bool = True) -> None:
    """Log a test with every candidate; print, if asked to, base, tuned, control and what decoding uses."""
    _show(held_out_answer(results.metrics) if printed else (), held_out_tables(results.table, results.metrics))


def _show(printed: Iterable[ReportTable | str], logged: Iterable[ReportTable | str]) -> None:
    for part in printed:
        console().print(part, markup=False)  # options in advice have brackets
    if _log.isEnabledFor(logging.INFO):
        _log.info("%s", as_text(logged))


def tracked(trainer: L.Trainer, loader: Iterable[Batch], *, doing: str) -> Iterator[Batch]:
    """Yield the batches, with a progress bar on the first process if the trainer shows any."""
    hidden = trainer.progress_bar_callback is None or not trainer.is_global_zero
    shared = getattr(trainer.progress_bar_callback, "progress", None)  # a second live display on one console
    on = console() if shared is None else shared.console
    yield from track(loader, doing, console=on, transient=True, disable=hidden)
