"""Lightning's verbs: LightningCLI with `calibrate`, and `plan`, which reads the options of `fit`."""

import inspect
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import lightning as L
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary, ProgressBar, RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from peft import PeftConfig
from transformers.utils.logging import disable_progress_bar

import svd_lightning.experimental  # noqa: F401  the names of its rules
from svd_lightning.callbacks import (
    NewRunFolder,
    PredictionWriter,
    RequeueBetweenBatches,
    RunLogFile,
    SteeringCalibration,
    ValidationHistory,
)
from svd_lightning.cli.parser import OneLineParser
from svd_lightning.cli.verbs import PLAN
from svd_lightning.commands.plan.command import PlanOptions, show_plan
from svd_lightning.data import CompletionDataModule
from svd_lightning.errors import InputError, explained, meant
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.run_log import RunLog
from svd_lightning.runs import checkpoint_beside
from svd_lightning.trainer import SteeringTrainer

_log = logging.getLogger(__name__)

_CHECKPOINT_NAMES = ("best", "last", "hpc", "registry")
"""Values of Lightning's ckpt_path that are not paths."""


class SteeringParser(OneLineParser, LightningArgumentParser):
    """Parses the options, with `predict` as the name of the prediction writer's group."""

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


class SteeringCLI(LightningCLI):
    """LightningCLI with the calibration and the prediction writer built in."""

    run_log: RunLog
    """Hears what the libraries say."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Add `calibrate` to Lightning's verbs; name what is no option, or another's: `--verbose` is of all."""
        verbs = {**LightningCLI.subcommands(), "calibrate": {"model", "datamodule"}}
        return {verb: skipped | {"verbose"} for verb, skipped in verbs.items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the two callbacks as groups of options, and the defaults that no class can state."""
        parser.add_lightning_class_args(SteeringCalibration, "calibration")
        parser.add_lightning_class_args(PredictionWriter, "predict")
        parser.add_argument("--verbose", action="store_true", help="Show what the libraries say and all tables.")
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
        verb = self.config.get("subcommand")
        self._verbose = verb is not None and self.config[verb].verbose
        if self._verbose:
            self.run_log.show_all()

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
        """Set one epoch, as in the paper, if no length is given; Lightning's default is 1,000.

        Raises:
            InputError: for a misspelt class of an adapter, which would be looked for on the hub.
        """
        check_adapter_name(self._get(self.config, "model").adapter)
        trainer = self.config.fit.trainer if self.subcommand == "fit" else None
        if trainer and (trainer.max_epochs, trainer.max_steps, trainer.max_time) == (None, -1, None):
            trainer.max_epochs = 1
            _log.info("trainer.max_epochs is not given: one epoch, a brief warm start")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Leave the progress bar out on request; turn Lightning's error about an argument into one line."""
        given = self.config[str(self.subcommand)].trainer
        unwanted: tuple[type[L.Callback], ...] = (
            *([ProgressBar] if given.enable_progress_bar is False else ()),  # it would refuse the bar
            *([ModelSummary] if given.enable_model_summary is False else ()),
        )
        kept = [each for each in self.trainer_defaults["callbacks"] if not isinstance(each, unwanted)]
        self.trainer_defaults["callbacks"] = kept
        with explained((ValueError, MisconfigurationException), lambda reason: f"trainer: {reason}"):
            trainer = super().instantiate_trainer(**kwargs)
        assert isinstance(trainer, SteeringTrainer)
        # after the one that refuses another run's folder
        trainer.callbacks += [RunLogFile(self.run_log), ValidationHistory()]
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Leave Lightning's table of metrics to `--verbose`."""
        takes = inspect.signature(getattr(self.trainer, subcommand)).parameters
        quiet = {"verbose": self._verbose} if "verbose" in takes else {}
        return {**super()._prepare_subcommand_kwargs(subcommand), **quiet}

    def after_validate(self) -> None:
        """Print the NLL of the validation split in one line."""
        if self.trainer.is_global_zero:
            nll = {name: value for name, value in self.trainer.callback_metrics.items() if "nll_" in name}
            texts = (f"{name.rpartition('_')[2]} {value:.4f}" for name, value in nll.items())
            print(f"validation NLL, nats per token: {', '.join(texts)}")

    def after_predict(self) -> None:
        """Name the file of the answers."""
        assert isinstance(self.trainer, SteeringTrainer)
        for callback in self.trainer.callbacks:
            if isinstance(callback, PredictionWriter) and self.trainer.is_global_zero:
                print(f"answers: {callback.path}")

    def after_calibrate(self) -> None:
        """Print the NLL of the validation split in one line."""
        self.after_validate()


def check_adapter_name(adapter: object) -> None:
    """Raise InputError for a folder's or hub name that is nearly a PEFT configuration's."""
    if isinstance(adapter, str) and "/" not in adapter and not Path(adapter).exists():
        near = meant(adapter.rpartition(".")[2], (f"peft.{one.__name__}" for one in PeftConfig.__subclasses__()))
        if near:
            raise InputError(f"model.adapter: there is no class {adapter!r}{near}")


def _cli_for(verb: str, log: RunLog) -> type[SteeringCLI]:
    """Return SteeringCLI with one verb alone: finding the options of all of them takes long."""
    skipped = SteeringCLI.subcommands()[verb]

    class OneVerb(SteeringCLI):
        run_log = log

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {verb: skipped}

    return OneVerb


class FitOptions(SteeringCLI):
    """Knows the options of `fit`; makes neither model nor trainer, and leaves the parsing to others."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of `fit`, without the verb."""
        super().add_arguments_to_parser(parser)
        parser.add_method_arguments(SteeringTrainer, "fit", skip=set(self.subcommands()["fit"]))

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse nothing yet."""
        self.config = Namespace()

    def before_instantiate_classes(self) -> None:
        """Check nothing yet."""

    def _set_seed(self) -> None:
        """Do nothing: options need no random numbers."""

    def instantiate_classes(self) -> None:
        """Make nothing."""


class PlanCLI(FitOptions):
    """Reads the options of `fit` and shows how much memory they need."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of `plan`."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(PlanOptions, as_group=False, instantiate=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line."""
        SteeringCLI.parse_arguments(self, parser, args)

    def before_instantiate_classes(self) -> None:
        """Check the adapter's name."""
        SteeringCLI.before_instantiate_classes(self)

    def instantiate_classes(self) -> None:
        """Print the plan instead of making model and trainer."""
        show_plan(self.config)


def run_lightning(verb: str, options: list[str]) -> None:
    """Run one of Lightning's verbs, or `plan`."""
    texts = _asks_for_help(options)
    set_parsing_settings(subclasses_enabled=[PeftConfig], docstring_parse_attribute_docstrings=texts)
    log = RunLog(first=not _get_rank())
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
    if not sys.stderr.isatty():
        disable_progress_bar()  # of loading weights
    with log.listening():
        _run(verb, options, log)


def fit_parser() -> LightningArgumentParser:
    """Return the parser of the options of `fit`, for `run`."""
    set_parsing_settings(subclasses_enabled=[PeftConfig], docstring_parse_attribute_docstrings=False)
    parser: LightningArgumentParser = _make(FitOptions, "run", []).parser
    return parser


def _run(verb: str, options: list[str], log: RunLog) -> None:
    planned = verb not in SteeringCLI.subcommands()
    _make(PlanCLI if planned else _cli_for(verb, log), verb, options if planned else [verb, *options])


def _make(cli: type[SteeringCLI], verb: str, arguments: list[str]) -> SteeringCLI:
    """Make a command line, which runs its verb at once."""
    options = issubclass(cli, FitOptions)
    return cli(
        SteeredLanguageModel,
        CompletionDataModule,
        subclass_mode_data=True,
        auto_configure_optimizers=False,  # model.optimizer is the module's own
        trainer_class=SteeringTrainer,
        trainer_defaults={
            "callbacks": [
                RichProgressBar(),
                ModelSummary(),  # Lightning's own choice prints; this one logs
                ModelCheckpoint(filename="{epoch}-{step}", save_last=True),
                RequeueBetweenBatches(),
            ],
        },
        save_config_callback=NewRunFolder,
        seed_everything_default=42,
        parser_class=SteeringParser,
        parser_kwargs={
            "prog": f"svd-lightning {verb}" if options else "svd-lightning",
            "description": PLAN.about if options else None,
            "allow_abbrev": False,
        },
        args=arguments,
        run=not options,
    )


def _asks_for_help(options: Sequence[str]) -> bool:
    """Whether texts about options are shown; reading them from the source of every class takes seconds."""
    return any(word.startswith(("-h", "--h")) or ".help" in word or "comments" in word for word in options)
