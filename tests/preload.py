"""What every process that `tests/processes.py` forks has imported already."""

import gc

gc.disable()  # the collector would look at a million new objects again and again: seconds

import svd_lightning.cli.running  # noqa: E402, F401
import tests.chain  # noqa: E402, F401
from svd_lightning.cli.lightning_verbs import fit_parser  # noqa: E402

fit_parser()  # the first one reads the source of every class

gc.freeze()  # it never looks at these again, so a forked process need not copy their memory
gc.enable()
