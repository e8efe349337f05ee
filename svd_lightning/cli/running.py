"""Running a verb: by its own parser, with one line for bad input and for signals."""

import logging
import os
import sys
import warnings
from pkgutil import resolve_name

from jsonargparse import auto_cli
from transformers.utils.logging import disable_progress_bar

from svd_lightning.cli.parser import TRACEBACK, OneLineParser
from svd_lightning.cli.verbs import COMMANDS, PASSING, RUN
from svd_lightning.errors import InputError
from svd_lightning.files import disk_trouble
from svd_lightning.handles import expanded
from svd_lightning.signals import Stopped, answering

_PYTHON_WORDS = {"for": "form", "as": "form"}


def run(verb: str, options: list[str]) -> None:
    """Run a verb; bad input, a full disk and signals end in one line."""
    logging.getLogger("svd_lightning").setLevel(logging.INFO)
    try:
        with answering():
            _dispatch(verb, options)
    except Stopped as stop:
        stop.tell("nothing is half written; the same command starts again")
        raise
    except InputError as error:
        if os.environ.get(TRACEBACK):
            raise
        sys.exit(f"error: {error}")
    except Exception as error:
        if os.environ.get(TRACEBACK) or (trouble := disk_trouble(error)) is None:
            raise
        sys.exit(f"error: {trouble}")


def _dispatch(verb: str, options: list[str]) -> None:
    if verb in COMMANDS:
        _quiet_libraries()
        run_function(verb, options)
    elif verb in PASSING:
        _quiet_libraries()
        sys.exit(resolve_name(PASSING[verb].target)(options))
    elif verb == "run":
        from svd_lightning.cli.lightning_verbs import fit_parser

        _quiet_libraries()
        sys.exit(resolve_name(RUN.target)(options, parser=fit_parser))
    else:
        from svd_lightning.cli.lightning_verbs import run_lightning  # seconds that functions need not wait for

        run_lightning(verb, expanded([verb, *options])[1:])


def run_function(verb: str, options: list[str]) -> None:
    """Run a verb that is a function, with its arguments as options."""
    auto_cli(
        resolve_name(COMMANDS[verb].target),
        args=[_underscored(option) for option in options],
        prog=f"svd-lightning {verb}",
        parser_class=OneLineParser,
        description=COMMANDS[verb].about,
        allow_abbrev=False,
    )


def _underscored(argument: str) -> str:
    """Write `--push-to-hub` as `--push_to_hub`, and `--for` and `--as`, words that Python keeps, as `--form`."""
    name, equals, value = argument.partition("=")
    if not name.startswith("--"):
        return argument
    word = name[2:].replace("-", "_")
    return f"--{_PYTHON_WORDS.get(word, word)}{equals}{value}"


def _quiet_libraries() -> None:
    """Silence the bar of loading weights, and warnings on which a user cannot act."""
    disable_progress_bar()
    for message in (
        ".*does not have many workers.*",
        ".*loftq_config.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
        ".*is_gradient_checkpointing.*",
        ".*Found keys that are in the model state dict.*",
        ".*args parameter is intended to run from within Python.*",
    ):
        warnings.filterwarnings("ignore", message=message)
