"""The callback that measures how far to steer."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import track
from torch.utils.data import DataLoader

from svd_lightning.calibration import PAPER_ALPHAS, calibrate
from svd_lightning.callbacks.checks import (
    as_completion_data,
    as_steered,
    check_calibration_split,
    check_checkpointing,
    check_estimator,
    check_options,
    check_validation,
    run_folder,
)
from svd_lightning.callbacks.figures import log_figures
from svd_lightning.callbacks.snapshot_folder import Reference
from svd_lightning.callbacks.tables import calibration_tables, test_tables
from svd_lightning.checkpoint import CALIBRATED
from svd_lightning.console import console
from svd_lightning.files import write_json
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.objective import CalibrationTokens, ReferenceSnapshot
from svd_lightning.records import CalibrationRecord
from svd_lightning.report import save_calibration
from svd_lightning.scoring.collect import new_table, tabulate
from svd_lightning.scoring.states import CompletionStates
from svd_lightning.strategies import run_step
from svd_lightning.strength import LineSearch, StrengthEstimator

_log = logging.getLogger(__name__)
_SCALARS = ("kl_to_reference", "nll_base", "nll_tuned", "nll_steered", "mask_size", "coverage")


class SteeringCalibration(L.Callback):
    """Calibrates the steering strength on a labelled split, at the end of every warm-start epoch.

    The base's hidden states are taken once and kept; each epoch costs one forward of the tuned model over the
    calibration split, and without a mask some ten passes of the two heads over its tokens. The strength goes into
    the module, and from there into the epoch's checkpoint; the figures go to the logger and to
    `calibration.json` in the run folder.

    Args:
        estimator: how the strengths are found; the paper's is `Mean`, the optimum `LineSearch`.
        guard: use the strengths only where their held-out gain, over the tuned model and over sharpening, is
            sure; else fall back to sharpening, or to the tuned model.
        folds: of the cross-fit behind the gains; examples are never split.
        alphas: masks to compare, with a penalty fitted for each; an empty list leaves the comparison out.
        others: solve the other rules and estimators too, for the comparison in tables and report.
        show_table: print base, tuned, the sharpening control and every estimator side by side.
        snapshot: folder where the base's hidden states on the split are kept and found again; what it holds of
            another base or other data is refused. Null for `snapshot` in the run folder, remade as needed.

    Raises:
        InputError: at the start of fit, if there is no calibration split, it overlaps the training split, or
            checkpoints would be written before the calibration of their epoch, or the snapshot folder holds
            another base's or other data's.
    """

    def __init__(
        self,
        *,
        estimator: StrengthEstimator = LineSearch(),  # noqa: B008  has no state
        guard: bool = True,
        folds: int = 4,
        alphas: Sequence[float] = PAPER_ALPHAS,
        others: bool = True,
        show_table: bool = True,
        snapshot: str | None = None,
    ) -> None:
        check_options(folds, alphas)
        self.estimator, self.guard, self.folds = estimator, guard, folds
        self.alphas, self.others, self.show_table = tuple(alphas), others, show_table
        self.on_validate = False
        self._reference = Reference(snapshot)
        self._calibrated_step: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Before weights are loaded: without a validation split nothing would run, and nothing be calibrated."""
        if self.on_validate:
            check_validation(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what would waste or falsify the run."""
        self._calibrated_step = None  # the module may come from another run with as many steps
        check_calibration_split(as_completion_data(trainer))
        check_estimator(self.estimator, as_steered(pl_module).recipe)
        check_checkpointing(trainer)
        self._reference.open(trainer, as_steered(pl_module))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Calibrate before the validation that ends an epoch, so that it can report the steered NLL."""
        last = trainer.state.fn is TrainerFn.FITTING and not trainer.sanity_checking and trainer.is_last_batch
        if last or self.on_validate:
            self._run(trainer, as_steered(pl_module))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what `calibrate` found together with the adapter, for the verbs that come after."""
        if self.on_validate and (folder := run_folder(trainer)) is not None:
            trainer.save_checkpoint(folder / "checkpoints" / CALIBRATED, weights_only=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Calibrate, unless a validation has just done so with the same weights."""
        self._run(trainer, as_steered(pl_module))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show every candidate on the test split, with the strengths from the calibration split."""
        module, folder = as_steered(pl_module), run_folder(trainer)  # asked on every rank: they agree on it
        if not trainer.is_global_zero:
            return
        for name, found in (("test.json", module.test_record), ("test_metrics.json", module.test_metrics)):
            if folder is not None and found is not None:
                write_json(folder / name, found)
        if self.show_table:
            for table in test_tables(module.test_record, module.test_metrics):
                console().print(table)

    def _run(self, trainer: L.Trainer, module: SteeredLanguageModel) -> None:
        if self._calibrated_step == trainer.global_step and not self.on_validate:
            return
        check_calibration_split(as_completion_data(trainer))
        if self.on_validate:
            _hint_at_more_data(trainer, module)
        with _evaluating(module):
            data = self._measure(trainer, module)
            record = calibrate(
                data,
                module.recipe,
                self.estimator,
                guard=self.guard,
                folds=self.folds,
                alphas=self.alphas,
                others=self.others,
            )
        record |= {
            "global_step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "data": as_completion_data(trainer).digest("calibration"),
        }
        module.adopt(record)
        self._calibrated_step = trainer.global_step
        self._report(trainer, module, data, record)

    def _measure(self, trainer: L.Trainer, module: SteeredLanguageModel) -> CalibrationTokens:
        """One pass over the calibration split, gathered from all processes; without a mask its hidden states."""
        loader = as_completion_data(trainer).calibration_dataloader()
        snapshot = self._reference.open(trainer, module)
        _log.info("calibrating on %s examples", len(loader.dataset))  # type: ignore[arg-type]
        collect, result = self._collector(trainer, module, snapshot)
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            for batch in _progress(trainer, loader):
                on_device = trainer.strategy.batch_to_device(batch, module.device)
                run_step(trainer, module, "calibration_step", collect, on_device)
        self._reference.keep()
        return result()

    def _collector(
        self, trainer: L.Trainer, module: SteeredLanguageModel, snapshot: ReferenceSnapshot
    ) -> tuple[Callable[[dict[str, Any]], None], Callable[[], CalibrationTokens]]:
        """What takes the batches, and what gives the tokens: with a mask a table, else the models' states."""
        tasks = as_completion_data(trainer).tasks("calibration")
        if module.recipe.alpha is None:
            precision = trainer.precision_plugin.val_step_context
            states = CompletionStates(module.peft_model, snapshot=snapshot, around=precision)
            return states.add, partial(states.stream, tasks)
        table = new_table(module.recipe, alphas=self.alphas, tasks=tasks).to(module.device)
        return partial(tabulate, module.peft_model, table=table, snapshot=snapshot), table.compute

    def _report(
        self, trainer: L.Trainer, module: SteeredLanguageModel, data: CalibrationTokens, record: CalibrationRecord
    ) -> None:
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        for text in (record["warning"], None if record["verdict"] == "steer" else record["message"]):
            if text:
                _log.warning("calibration: %s", text)
        for logger in trainer.loggers:
            logger.log_metrics(_scalars(record), step=trainer.global_step)
            if isinstance(logger, TensorBoardLogger):
                log_figures(logger, data, module.recipe.directions, record, step=trainer.global_step)
        if folder is not None:
            save_calibration(folder, record, data)
        if self.show_table:
            for part in calibration_tables(record):
                console().print(part)


def _scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """What loggers are told of a calibration."""
    names = [f"steer/strength/{rule}" for rule in record["rules"]]
    names = ["steer/strength"] if len(names) == 1 else names
    found = {f"steer/{name}": record[name] for name in _SCALARS} | dict(
        zip(names, record["strengths"], strict=True)
    )
    for task in record["tasks"]:
        found |= {f"{name}/{task['task']}": mu for name, mu in zip(names, task["strengths"], strict=True)}
    return found


def _hint_at_more_data(trainer: L.Trainer, module: SteeredLanguageModel) -> None:
    """An adapter trained elsewhere needs no training split, but only the user knows what it was trained on."""
    here, idle = (len(as_completion_data(trainer).split_ids(split)) for split in ("calibration", "train"))
    if module.adapter_folder is not None and idle > here:
        _log.warning(
            "calibrating on %s examples, while %s of the training split lie idle: where the adapter has not seen "
            "them, --data.calibration 0.9 calibrates on more",
            here,
            idle,
        )


@contextmanager
def _evaluating(module: SteeredLanguageModel) -> Iterator[None]:
    """The module in evaluation mode."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _progress(trainer: L.Trainer, loader: DataLoader) -> Iterator[dict[str, Any]]:
    """The batches, with a bar on the first process where the trainer shows any."""
    hidden = trainer.progress_bar_callback is None or not trainer.is_global_zero
    shared = getattr(trainer.progress_bar_callback, "progress", None)  # a second live display on one console
    on = console() if shared is None else shared.console
    yield from track(loader, "Calibrating", console=on, transient=True, disable=hidden)
