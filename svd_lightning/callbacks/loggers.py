"""A calibration's warnings, numbers and figures, for the log and the loggers."""

import logging
from collections.abc import Mapping, Sequence
from typing import cast

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from svd_lightning.objective import CalibrationTokens, TokenTable
from svd_lightning.records import CalibrationRecord
from svd_lightning.report import calibration_figures
from svd_lightning.report.figures import token_strength_values
from svd_lightning.steering import SteeringRule

_log = logging.getLogger(__name__)
_SCALARS = ("kl_to_reference", "nll_base", "nll_tuned", "nll_steered", "mask_size", "coverage")


def log_calibration(
    trainer: L.Trainer,
    record: CalibrationRecord,
    tokens: CalibrationTokens,
    rules: Sequence[SteeringRule],
    *,
    printed: bool = False,
) -> None:
    """Log a calibration's warnings; give its numbers to every logger, its figures to TensorBoard.

    Args:
        trainer: whose loggers.
        record, tokens, rules: of the calibration.
        printed: the terminal shows the warnings anyway, so that only the run's log needs them.
    """
    good = record["verdict"] in ("steer", "correct") and not record.get("decoding", {}).get("worse")
    for text in (record["warning"], None if good else record["message"], *record.get("advice", [])):
        if text:
            _log.warning("calibration: %s", text, extra={"printed": printed})
    for logger in trainer.loggers:
        logger.log_metrics(_scalars(record), step=trainer.global_step)
        if isinstance(logger, TensorBoardLogger):
            log_figures(logger, record, tokens, rules, step=trainer.global_step)


def log_figures(
    logger: TensorBoardLogger,
    record: CalibrationRecord,
    tokens: CalibrationTokens,
    rules: Sequence[SteeringRule],
    *,
    step: int,
) -> None:
    """Write the report's figures of one calibration, and with a mask the histogram of each token's best μ."""
    for name, figure in calibration_figures(record, table=tokens, rules=rules).items():
        logger.experiment.add_figure(f"steer/{name}", figure, step)
    if isinstance(tokens, TokenTable) and record["alpha"] is not None:
        values = token_strength_values(tokens.narrow(record["alpha"]), rules[0])
        logger.experiment.add_histogram("steer/token_strength_values", values, step)


def _scalars(record: CalibrationRecord) -> dict[str, float]:
    figures = cast(Mapping[str, float], record)
    names = [f"steer/strength/{rule}" for rule in record["rules"]]
    names = ["steer/strength"] if len(names) == 1 else names
    scalars = {f"steer/{name}": figures[name] for name in _SCALARS}
    scalars |= dict(zip(names, record["strengths"], strict=True))
    for task in record["tasks"]:
        scalars |= {f"{name}/{task['task']}": mu for name, mu in zip(names, task["strengths"], strict=True)}
    return scalars
