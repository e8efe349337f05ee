"""Every notebook runs from top to bottom, and is stored without outputs."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


COMPARED = {"from_data_to_answer", "quickstart", "bring_your_own_adapter", "anatomy_of_a_steered_token"}
"""Those that show base, tuned and steered side by side."""


FEW = "from svd_lightning.commands.demo import command; command.HELD_OUT.update(calibration=32, validation=4, test=24)"
"""Shortens the splits that a notebook calibrates and is tested on; it draws and prints the same."""
HERE = """
from svd_lightning.cli import main as verb
from svd_lightning.commands.run.command import run
run.__kwdefaults__["perform"] = lambda words: verb(list(words)) or 0
"""
"""Makes `run` call its verbs in the kernel, which has their imports, and not in processes of their own."""
QUICK = "--calibration.alphas [] --calibration.others false --calibration.decoded 0 --epochs 1"


def test_they_are_there():
    assert {path.stem for path in NOTEBOOKS} == COMPARED | {"choosing_strength_and_mask"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped_and_parameters_come_first(path):
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert "parameters" in cells[0].metadata.get("tags", [])


@pytest.fixture(scope="module")
def kernel():
    """The kernel of all notebooks, started by the first: its imports take longer than a notebook."""
    manager = AsyncKernelManager()
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parents[1]), os.environ.get("PYTHONPATH", "")]))
    notebook = read(path)
    parameters = next(cell for cell in notebook.cells if cell.cell_type == "code")
    parameters.source += f"\nexamples = 80\noptions = {QUICK!r}"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}\n{FEW}\n{HERE}"))
    nbclient.NotebookClient(notebook, km=kernel, timeout=200).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    printed = "".join(output.get("text", "") for output in outputs)
    assert "image/png" in kinds
    assert path.stem not in COMPARED or all(f"{name}:" in printed for name in ("base", "tuned", "steered"))
    assert not [output for output in outputs if output.output_type == "error"]
