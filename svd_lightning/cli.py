"""The command line: LightningCLI's verbs, `calibrate`, and the demo."""

import logging
import os
import sys
import warnings

from jsonargparse import set_parsing_settings
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from peft import PeftConfig

from svd_lightning.callbacks import PredictionWriter, SteeringCalibration
from svd_lightning.data import CompletionDataModule
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.trainer import SteeringTrainer

_DESCRIPTION = """Steering Vector Decoding: fine-tune a PEFT adapter briefly, calibrate how far to push its
direction, and decode with it. `svd-lightning demo` runs the whole chain on an embedded model in a few minutes."""


class SteeringParser(LightningArgumentParser):
    """Leaves the group name `predict` to the options of the prediction writer."""

    def add_method_arguments(
        self,
        class_type: type,
        method_name: str,
        nested_key: str | None = None,
        *,
        skip: set[str | int] | None = None,
    ) -> list[str]:
        """A verb's own options without a group of the verb's name."""
        return super().add_method_arguments(class_type, method_name, nested_key, as_group=False, skip=skip)


class SteeringCLI(LightningCLI):
    """LightningCLI with the calibration and the prediction writer built in."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's verbs and `calibrate`."""
        return {
            **LightningCLI.subcommands(),
            "calibrate": {"model", "datamodule"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The two callbacks as groups of options, and defaults that no class can state."""
        parser.add_lightning_class_args(SteeringCalibration, "calibration")
        parser.add_lightning_class_args(PredictionWriter, "predict")
        parser.set_defaults(
            {
                "model.steering.rules": [{"class_path": "svd_lightning.steering.KLGradient"}],
                "calibration.estimator": {"class_path": "svd_lightning.strength.LineSearch"},
            }
        )

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint's options replace those given; here a difference is an error."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `svd-lightning` and `python -m svd_lightning`."""
    _quiet_libraries()
    try:
        _run(arguments)
    except InputError as error:
        if os.environ.get("SVD_LIGHTNING_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")


def _run(arguments: list[str] | None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["demo"]:
        from jsonargparse import auto_cli

        from svd_lightning.demo.run import demo  # the demo is a program of its own

        auto_cli(demo, args=given[1:], prog="svd-lightning demo")
        return
    set_parsing_settings(subclasses_enabled=[PeftConfig])
    SteeringCLI(
        SteeredLanguageModel,
        CompletionDataModule,
        subclass_mode_data=True,
        trainer_class=SteeringTrainer,
        trainer_defaults={
            "callbacks": [RichProgressBar(), ModelCheckpoint(filename="{epoch}-{step}", save_last=True)],
        },
        save_config_callback=SaveConfigCallback,
        seed_everything_default=42,
        parser_class=SteeringParser,
        parser_kwargs={"prog": "svd-lightning", "description": _DESCRIPTION},
        args=arguments,
    )


def _quiet_libraries() -> None:
    """Leave out what tells a user nothing: notes on loaders, defaults and deprecations between libraries."""
    for message in (
        ".*does not have many workers.*",
        ".*loftq_config.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("svd_lightning").setLevel(logging.INFO)
