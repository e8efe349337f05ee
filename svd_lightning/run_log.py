"""What loggers and warnings say during a run: little of it on the screen, all of it in `run.log`."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from svd_lightning.errors import DiskError, InputError
from svd_lightning.files import writing

_WARNING = re.compile(r".*?:\d+: (?:\w*Warning: )?(?P<text>.*?)(\n  .*)?", re.DOTALL)
"""Matches a warning as `logging.captureWarnings` writes it."""
_OURS = str(Path(__file__).parent)
_ACTIONABLE = re.compile(
    r"GPU available but not used|smaller than the logging interval|thrown while requesting"  # the hub
)
"""Matches warnings of the libraries on which a user can act."""
_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RunLog:
    """Hears every logger and warning: shows what matters on the screen, and keeps the rest for a file.

    Args:
        first: whether this is the first process; of the others only errors are shown.
    """

    def __init__(self, *, first: bool) -> None:
        self.hidden = 0
        """How many warnings went to the file alone."""
        self.screen = _Screen(self, first=first)
        self.handler: logging.Handler = MemoryHandler(sys.maxsize, flushLevel=sys.maxsize, flushOnClose=False)
        self._before: dict[logging.Logger, tuple[list[logging.Handler], bool]] = {}

    def show_all(self) -> None:
        """Show everything from now on, as `--verbose` asks."""
        self.screen.verbose = True

    def write_to(self, path: Path) -> None:
        """Append what was said so far to a file, and what is said from now on.

        Raises:
            DiskError: if the file cannot be opened.
        """
        if not isinstance(self.handler, MemoryHandler):
            return  # a run's second verb
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _File(path, encoding="utf-8")
        file.setFormatter(logging.Formatter(_LINE))
        self.handler.setTarget(file)
        self.handler.flush()
        root = logging.getLogger()
        root.removeHandler(self.handler)
        root.addHandler(file)
        self.handler = file
        self._hear_all()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear all loggers and warnings within the context; afterwards they speak as before."""
        root = logging.getLogger()
        self._hear_all()
        logging.captureWarnings(True)
        root.addHandler(self.screen)
        root.addHandler(self.handler)
        try:
            yield
        except (InputError, DiskError):
            raise
        except Exception:
            self._show_waiting()
            raise
        finally:
            root.removeHandler(self.screen)
            root.removeHandler(self.handler)
            self.handler.close()
            logging.captureWarnings(False)
            for logger, (handlers, propagate) in self._before.items():
                logger.handlers, logger.propagate = handlers, propagate

    def _show_waiting(self) -> None:
        """Show the warnings that no file has: the traceback that follows may come of them."""
        waiting = self.handler.buffer if isinstance(self.handler, MemoryHandler) else []
        for record in waiting:
            if record.levelno == logging.WARNING and not self.screen.filter(record):
                self.screen.emit(record)

    def _hear_all(self) -> None:
        """Make loggers that print by themselves hand their records on to the root instead."""
        for logger in list(logging.root.manager.loggerDict.values()):
            if not isinstance(logger, logging.Logger) or logger in self._before:
                continue
            if not logger.propagate or any(type(one) is logging.StreamHandler for one in logger.handlers):
                self._before[logger] = logger.handlers, logger.propagate
                logger.handlers, logger.propagate = [], True


class _Screen(logging.StreamHandler):
    """Shows our own warnings, those that a user can act on, and every process's errors, a line each."""

    def __init__(self, log: RunLog, *, first: bool) -> None:
        super().__init__(sys.stderr)
        self._log, self._first, self.verbose = log, first, False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show a record; count the warnings that are not."""
        if record.levelno >= logging.ERROR:
            return True
        if not self._first or getattr(record, "printed", False):
            return False
        shown = self.verbose or (record.levelno >= logging.WARNING and _matters(record))
        self._log.hidden += not shown and record.levelno >= logging.WARNING
        return shown

    def format(self, record: logging.LogRecord) -> str:
        """Return the message alone; of a warning neither place nor source."""
        found = _WARNING.fullmatch(record.getMessage().strip()) if record.name == "py.warnings" else None
        return super().format(record) if found is None or self.verbose else found["text"].strip()


class _File(logging.FileHandler):
    """A file whose disk may be full: the run ends with one line where its results are written, not here."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing."""


def _matters(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    ours = record.name.startswith("svd_lightning")
    if record.name == "py.warnings":
        ours = text.startswith(_OURS) and "deprecated" not in text  # which is a library's word to us
    return ours or _ACTIONABLE.search(text) is not None
