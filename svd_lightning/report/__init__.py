"""The results of a calibration as tables, figures, and a page that holds them."""

from svd_lightning.report.answer import calibration_answer, choice_answer, held_out_answer
from svd_lightning.report.figures import calibration_figures
from svd_lightning.report.folder import Run, load_run, save_calibration, save_test
from svd_lightning.report.page import page
from svd_lightning.report.render import ReportTable, Row
from svd_lightning.report.tables import calibration_tables, held_out_tables
from svd_lightning.report.validations import VALIDATIONS, load_validations

__all__ = [
    "VALIDATIONS",
    "ReportTable",
    "Row",
    "Run",
    "calibration_answer",
    "calibration_figures",
    "calibration_tables",
    "choice_answer",
    "held_out_answer",
    "held_out_tables",
    "load_run",
    "load_validations",
    "page",
    "save_calibration",
    "save_test",
]
