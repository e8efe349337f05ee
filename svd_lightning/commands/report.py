"""`svd-lightning report`: a run's calibration as one HTML file."""

from pathlib import Path

from svd_lightning.files import write_text
from svd_lightning.report.folder import load_run
from svd_lightning.report.page import page
from svd_lightning.runs import existing_run


def report(run: str, *, output: str | None = None, test: str | None = None) -> Path:
    """Write the calibration of a run as one HTML file, and print its path.

    The page holds the verdict, the table of candidates and the figures; it needs neither scripts nor a network.

    Args:
        run: run folder of fit, calibrate or the demo, such as runs/truthfulqa/version_0.
        output: file to write, replaced if it exists; null for report.html in the run folder.
        test: run folder of `svd-lightning test`, if its results are not in the same folder.

    Returns:
        The file.

    Raises:
        InputError: if the folder holds no calibration, or a damaged one.
    """
    folder = existing_run(run)
    path = folder / "report.html" if output is None else Path(output).expanduser()
    write_text(path, page(load_run(folder, test=None if test is None else Path(test).expanduser())))
    print(path)
    return path
