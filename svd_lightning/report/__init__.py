"""What a calibration found, for readers: figures, and a page that holds them."""

from svd_lightning.report.figures import calibration_figures
from svd_lightning.report.folder import Run, load_run, save_calibration, save_test
from svd_lightning.report.page import page

__all__ = ["Run", "calibration_figures", "load_run", "page", "save_calibration", "save_test"]
