"""The report's figures in TensorBoard, at every calibration."""

from collections.abc import Sequence

from lightning.pytorch.loggers import TensorBoardLogger

from svd_lightning.objective import TokenTable
from svd_lightning.records import CalibrationRecord
from svd_lightning.report import calibration_figures
from svd_lightning.report.figures import token_strength_values
from svd_lightning.steering import SteeringRule


def log_figures(
    logger: TensorBoardLogger,
    table: object,
    rules: Sequence[SteeringRule],
    record: CalibrationRecord,
    *,
    step: int,
) -> None:
    """Write the figures of one calibration, and the raw histogram of μ*.

    Args:
        logger: TensorBoard's; the course over epochs is among its curves already.
        table: the calibration tokens; anything but a `TokenTable` has no curves.
        rules: the directions of the steering.
        record: as `svd_lightning.calibration.calibrate` returned it.
        step: the trainer's global step.
    """
    figures = calibration_figures(record, table=table, rules=rules)
    for name, figure in figures.items():
        logger.experiment.add_figure(f"steer/{name}", figure, step)
    if isinstance(table, TokenTable) and record["alpha"] is not None:
        values = token_strength_values(table.narrow(record["alpha"]), rules[0])
        logger.experiment.add_histogram("steer/token_strength_values", values, step)
