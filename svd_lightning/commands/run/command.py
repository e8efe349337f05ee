"""`svd-lightning run`: warm start, calibration, test and report in one run folder."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from svd_lightning.commands.run.answer import answer
from svd_lightning.commands.run.learning import fall, fall_line, learning_line, logged_losses, trend
from svd_lightning.commands.run.outlook import outlook_lines
from svd_lightning.commands.run.prepare import Parser, as_yaml, prepare
from svd_lightning.commands.run.request import Request, read_request
from svd_lightning.commands.run.stages import (
    State,
    alone,
    begin,
    check_same,
    is_tested,
    new_state,
    read_state,
    training_words,
    write_state,
)
from svd_lightning.console import console
from svd_lightning.files import strict, write_text
from svd_lightning.records import CalibrationRecord
from svd_lightning.report import load_run, load_validations, page
from svd_lightning.signals import Stopped

Perform = Callable[[Sequence[str]], int]
"""Runs one command of svd-lightning; returns its exit status."""
_NO_TABLE = ("--calibration.show_table", "false")  # the answer comes at the end


def as_process(words: Sequence[str]) -> int:
    """Run a verb in a process of its own, which a signal to this one ends too."""
    process = subprocess.Popen([sys.executable, "-m", "svd_lightning", *words])
    try:
        return process.wait()
    except Stopped:
        process.terminate()
        process.wait()
        raise


def run(words: Sequence[str], *, parser: Callable[[], Parser], perform: Perform = as_process) -> int:
    """Train an adapter briefly, calibrate it, test it and say what came of it, in one run folder.

    Args:
        words: the command line after the verb.
        parser: makes the parser of the options of `fit`.
        perform: runs a verb.

    Returns:
        The exit status: 0, or that of the verb that failed.

    Raises:
        InputError: for bad input, before any training.
    """
    request = read_request(words)
    folder = request.folder
    state = read_state(folder)
    asked: dict[str, Any] = strict(request.asked())
    try:
        content = None
        if state is None or not check_same(folder, state, asked):
            prepared = prepare(request, parser())
            _say(*outlook_lines(prepared.outlook))
            state, content = new_state(prepared.outlook, asked), as_yaml(prepared.content)
        else:
            _say(f"Going on with {folder}.")
        with alone(folder):
            if content is not None:
                begin(folder, state, content)
            return _go_on(request, state, perform)
    except Stopped as stop:
        stop.tell("what is done is kept; the same command goes on from here")
        raise


def _go_on(request: Request, state: State, perform: Perform) -> int:
    folder = request.folder
    if not state.trained:
        words = training_words(folder, state, request)
        if words is not None and (status := perform([*words, *_NO_TABLE])):
            return status
        state = replace(state, trained=True)
        write_state(folder, state)
    if state.tests and not is_tested(folder) and (status := perform(["test", str(folder), *_NO_TABLE])):
        return status
    _show(folder, trained=state.training)
    return 0


def _show(folder: Path, *, trained: bool) -> None:
    found = load_run(folder)
    write_text(folder / "report.html", page(found))
    learning = _still_learning(folder, found.record) if trained else None
    shown = answer(found.record, found.metrics, folder=folder, trained=trained, learning=learning)
    console().print(*shown.tables, sep="\n")
    _say(*shown.lines, *shown.commands, f"Report: {folder / 'report.html'}")


def _still_learning(folder: Path, record: CalibrationRecord) -> str | None:
    epochs = record.get("epoch", 0) + 1
    if (found := fall(load_validations(folder))) is not None:
        return fall_line(found, record, epochs=epochs, folder=folder)
    losses = logged_losses(folder)
    steps = max(losses, default=0) + 1
    return learning_line(trend(losses), steps=steps, epochs=epochs, folder=folder)


def _say(*lines: str) -> None:
    for line in lines:
        console().print(line, markup=False, highlight=False, soft_wrap=True)
