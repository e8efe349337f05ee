"""What one process finds, for comparison."""

from pathlib import Path

import pytest

from tests.chain import write_diaries
from tests.distributed.launch import results, write_job


@pytest.fixture(scope="session")
def uneven(tmp_path_factory) -> Path:
    """Diaries: 32 to train on, which divide into the same batches everywhere; the other splits do not."""
    return write_diaries(
        tmp_path_factory.mktemp("uneven"), train=32, calibration=23, test=11, validation=7, predict=7
    )


@pytest.fixture(scope="session")
def one(uneven, tmp_path_factory) -> tuple[Path, dict]:
    """Folder and findings of the whole chain on one process."""
    folder = tmp_path_factory.mktemp("one")
    [found] = results(write_job(folder, uneven, "single"))
    return folder, found
