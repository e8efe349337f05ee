"""The command line: LightningCLI's verbs with `calibrate`, and the verbs of `commands/`."""

import inspect
import logging
import os
import re
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from zipfile import is_zipfile

import lightning as L
from jsonargparse import DefaultHelpFormatter, auto_cli, set_parsing_settings
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from peft import PeftConfig

from svd_lightning.callbacks import NewRunFolder, PredictionWriter, RequeueBetweenBatches, SteeringCalibration
from svd_lightning.commands.demo import demo
from svd_lightning.commands.experimental import learned_vector, sampled_contrast
from svd_lightning.commands.export import export
from svd_lightning.commands.inspect.command import inspect as inspect_run
from svd_lightning.commands.judge.command import judge
from svd_lightning.commands.lm_eval.command import lm_eval
from svd_lightning.commands.plan.command import PlanOptions, show_plan
from svd_lightning.commands.report import report
from svd_lightning.commands.sweep.command import main as sweep
from svd_lightning.data import CompletionDataModule
from svd_lightning.errors import InputError, explained
from svd_lightning.files import disk_trouble
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.runs import checkpoint_beside
from svd_lightning.signals import Stopped, answering
from svd_lightning.trainer import SteeringTrainer

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "report": report,
    "inspect": inspect_run,
    "export": export,
    "judge": judge,
    "lm-eval": lm_eval,
    "sampled-contrast": sampled_contrast,
    "learned-vector": learned_vector,
}
"""Verbs that are functions with options of their own."""

PASSING: dict[str, Callable[[list[str]], str | None]] = {"sweep": sweep}
"""Verbs that pass their options on to LightningCLI's verbs; they return a message if one of these failed."""


def _about(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").splitlines()[0]


_PLAN = "Compute how much memory a run needs from the options of `fit`, before anything is downloaded."

_VERBS = {verb: _about(function) for verb, function in {**COMMANDS, **PASSING}.items()} | {"plan": _PLAN}
_DESCRIPTION = """Steering Vector Decoding: fine-tune a PEFT adapter briefly, calibrate how far to push its
direction, and decode with it.

Verbs with options of their own, each with its own --help:
""" + "\n".join(f"  {verb:<20}{about}" for verb, about in _VERBS.items())

_log = logging.getLogger(__name__)
_TRACEBACK = "SVD_LIGHTNING_TRACEBACK"
"""If this environment variable is set, bad input ends in a traceback."""

_MISSPELT = re.compile(
    r'^Parser key "(?P<key>[^"]+)".*Problem with given class_path \'(?P<kind>[^\']+)\': '
    r"Option '(?P<option>[^']+)' is not accepted"
)
"""Matches jsonargparse's message of many lines about an option that a class does not have."""

_CHECKPOINT_NAMES = ("best", "last", "hpc", "registry")
"""Values of Lightning's ckpt_path that are not paths."""


class VerbatimDescription(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Formats help without joining the lines of the description."""


class SteeringParser(LightningArgumentParser):
    """Parses the options, with `predict` as the name of the prediction writer's group; errors take one line."""

    def add_method_arguments(
        self,
        class_type: type,
        method_name: str,
        nested_key: str | None = None,
        *,
        skip: set[str | int] | None = None,
    ) -> list[str]:
        """Add a verb's own options, without a group that has the verb's name."""
        return super().add_method_arguments(class_type, method_name, nested_key, as_group=False, skip=skip)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit, as for every other bad input; `--help` shows the usage."""
        if not self.exit_on_error or os.environ.get(_TRACEBACK):
            super().error(message, ex)
        program = getattr(ex, "subcommand_parser", self).prog.replace(" [options]", "")
        line = " ".join(message.split())
        if found := _MISSPELT.match(line):
            line = f"{found['key']}.{found['option']}: not an option of {found['kind']}"
        self.exit(2, f"error: {line}; see {program} --help\n")


class SteeringCLI(LightningCLI):
    """LightningCLI with the calibration and the prediction writer built in."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Add `calibrate` to Lightning's verbs."""
        return {**LightningCLI.subcommands(), "calibrate": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the two callbacks as groups of options, and the defaults that no class can state."""
        parser.add_lightning_class_args(SteeringCalibration, "calibration")
        parser.add_lightning_class_args(PredictionWriter, "predict")
        parser.set_defaults(
            {
                "model.steering.rules": [{"class_path": "svd_lightning.steering.KLGradient"}],
                "calibration.estimator": {"class_path": "svd_lightning.strength.LineSearch"},
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Remember which options the command line itself gives, beside its configurations."""
        super().parse_arguments(parser, args)
        given = args if isinstance(args, list) else sys.argv[1:]
        self._given = {argument.partition("=")[0] for argument in given}

    def _parse_ckpt_path(self) -> None:
        """Check that the checkpoint can be read; Lightning would also let its options replace those given.

        Without one or an adapter on the command line, a run's config.yaml stands for the run's last checkpoint:
        the one in the configuration is what that run began with.
        """
        verb = self.config.get("subcommand")
        path = self.config[verb].get("ckpt_path") if verb else None
        if verb not in (None, "fit") and not self._given & {"--ckpt_path", "--model.adapter"}:
            configs = [Path(str(config)) for config in self.config[verb].config or []]
            self.config[verb].ckpt_path = path = checkpoint_beside(configs) or path
        if path is not None and path not in _CHECKPOINT_NAMES and "://" not in path and not Path(path).exists():
            raise InputError(f"ckpt_path: expected a checkpoint, got {path!r}, and no such file exists")
        if path is not None and Path(path).is_file() and not is_zipfile(path):
            raise InputError(f"ckpt_path: cannot read {path!r}: it is cut short, or no checkpoint")

    def before_instantiate_classes(self) -> None:
        """Set one epoch, as in the paper, if no length is given; Lightning's default is 1,000."""
        trainer = self.config.fit.trainer if self.subcommand == "fit" else None
        if trainer and (trainer.max_epochs, trainer.max_steps, trainer.max_time) == (None, -1, None):
            trainer.max_epochs = 1
            _log.info("trainer.max_epochs is not given: one epoch, a brief warm start")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Leave the progress bar out on request; turn Lightning's error about an argument into one line."""
        if self.config[str(self.subcommand)].trainer.enable_progress_bar is False:  # it would refuse the bar
            kept = [each for each in self.trainer_defaults["callbacks"] if not isinstance(each, RichProgressBar)]
            self.trainer_defaults["callbacks"] = kept
        with explained((ValueError, MisconfigurationException), lambda reason: f"trainer: {reason}"):
            return super().instantiate_trainer(**kwargs)


def _cli_for(verb: str) -> type[SteeringCLI]:
    """Return SteeringCLI with one of Lightning's verbs alone: finding the options of all of them takes long."""
    verbs = SteeringCLI.subcommands()
    if verb not in verbs:
        return SteeringCLI

    class OneVerb(SteeringCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {verb: verbs[verb]}

    return OneVerb


class PlanCLI(SteeringCLI):
    """Reads the options of `fit` and shows how much memory they need; makes neither model nor trainer."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of `fit` and those of `plan`."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(PlanOptions, as_group=False, instantiate=False)
        parser.add_method_arguments(SteeringTrainer, "fit", skip=set(self.subcommands()["fit"]))

    def _set_seed(self) -> None:
        """Do nothing: a plan needs no random numbers."""

    def instantiate_classes(self) -> None:
        """Print the plan instead of making model and trainer."""
        show_plan(self.config)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: `svd-lightning` and `python -m svd_lightning`."""
    _quiet_libraries()
    try:
        with answering():
            _run(arguments)
    except Stopped as stop:
        stop.tell("nothing is half written; the same command starts again")
        raise
    except InputError as error:
        if os.environ.get(_TRACEBACK):
            raise
        sys.exit(f"error: {error}")
    except Exception as error:
        if os.environ.get(_TRACEBACK) or (trouble := disk_trouble(error)) is None:
            raise
        sys.exit(f"error: {trouble}")


def _asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether texts about options are shown; reading them from the source of every class takes seconds."""
    return any(word.startswith(("-h", "--h")) or ".help" in word or "comments" in word for word in arguments)


def _run(arguments: list[str] | None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    verb = given[0] if given else ""
    if verb in COMMANDS:
        auto_cli(
            COMMANDS[verb],
            args=[_underscored(argument) for argument in given[1:]],
            prog=f"svd-lightning {verb}",
            parser_class=SteeringParser,
            description=_about(COMMANDS[verb]),
        )
        return
    if verb in PASSING:
        sys.exit(PASSING[verb](given[1:]))
    texts = _asks_for_help(given)
    set_parsing_settings(subclasses_enabled=[PeftConfig], docstring_parse_attribute_docstrings=texts)
    planned = verb == "plan"
    cli = PlanCLI if planned else _cli_for(verb)
    cli(
        SteeredLanguageModel,
        CompletionDataModule,
        subclass_mode_data=True,
        auto_configure_optimizers=False,  # model.optimizer is the module's own
        trainer_class=SteeringTrainer,
        trainer_defaults={
            "callbacks": [
                RichProgressBar(),
                ModelCheckpoint(filename="{epoch}-{step}", save_last=True),
                RequeueBetweenBatches(),
            ],
        },
        save_config_callback=NewRunFolder,
        seed_everything_default=42,
        parser_class=SteeringParser,
        parser_kwargs={
            "prog": "svd-lightning plan" if planned else "svd-lightning",
            "description": _PLAN if planned else _DESCRIPTION,
            "formatter_class": VerbatimDescription,
        },
        args=given[1:] if planned else arguments,
        run=not planned,
    )


def _underscored(argument: str) -> str:
    """Write `--push-to-hub` as `--push_to_hub`."""
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument


def _quiet_libraries() -> None:
    """Silence warnings on which a user cannot act: loaders, defaults, and deprecations between libraries."""
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
    logging.getLogger("svd_lightning").setLevel(logging.INFO)
