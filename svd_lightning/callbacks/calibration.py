"""The callback that decides when the strengths are calibrated."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from svd_lightning.calibration import (
    PAPER_ALPHAS,
    FittedCorrection,
    HeldOutSteering,
    add_noise,
    calibrate,
    fit_corrections,
)
from svd_lightning.callbacks.checks import (
    Corrections,
    as_steered,
    check_calibration_split,
    check_checkpointing,
    check_estimator,
    check_options,
    check_test,
    check_validation,
    hint_at_more_data,
    tried,
)
from svd_lightning.callbacks.decoding_check import check_decoding
from svd_lightning.callbacks.loggers import log_calibration
from svd_lightning.callbacks.meters import measure_cost, measure_drift, measure_noise
from svd_lightning.callbacks.run import as_completion_data, evaluating, run_folder
from svd_lightning.callbacks.scale_fit import fit_adapter_scale
from svd_lightning.callbacks.show import show_calibration, show_test, tracked
from svd_lightning.callbacks.snapshot_folder import SnapshotFolder
from svd_lightning.callbacks.space import check_space
from svd_lightning.callbacks.trained import TrainedCheckpoint
from svd_lightning.checkpoint import CALIBRATED
from svd_lightning.data import CompletionDataModule
from svd_lightning.decoding import steer_model
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.objective import CalibrationTokens, QuestionTokens, label_tokens
from svd_lightning.records import CalibrationRecord
from svd_lightning.report import save_calibration, save_test
from svd_lightning.scoring import Collector, collector
from svd_lightning.signals import Stopped, check
from svd_lightning.steering import UNSTEERED
from svd_lightning.strategies import run_step, trained_sum
from svd_lightning.strength import LineSearch, StrengthEstimator

_log = logging.getLogger(__name__)


class SteeringCalibration(L.Callback):
    """Calibrates the steering strength on a labelled split, at the end of every warm-start epoch.

    The base runs once over the calibration split, and its hidden states are kept. Each epoch costs one forward of
    the tuned model over the split, one of both over 256 tokens of prompts (the drift), and without a mask some
    ten passes of the two heads over the split's tokens. The strengths go into the module and the epoch's
    checkpoint, the figures to the logger and `calibration.json`. Until that checkpoint is written, `trained.ckpt`
    keeps the adapter, for `calibrate` after a failure.

    Args:
        estimator: how the strengths are found; the paper's is `Mean`, the optimum `LineSearch`.
        choice: for questions with options, fit the choice among them (their cross-entropy), not the likelihood of
            the right answers' tokens; it needs options in every question. Either way MC1 is judged too.
        guard: use the strengths only where their held-out gain, over the tuned model and over sharpening, is
            sure, and neither MC1 nor the likelihood surely lower; else fall back to sharpening, or to the tuned
            model.
        folds: number of parts of the split in the cross-fit behind the gains; examples are never split.
        alphas: masks to compare, with a penalty fitted for each; an empty list leaves the comparison out.
        others: solve the other rules and estimators too, for the comparison in tables and report.
        corrections: fit corrections of the tuned model alone too, which cost nothing at decoding; with the guard
            one is used instead of steering where that gains no more. Names try some alone.
        scale: try the adapter's scaling times s too, as one more correction (LoRA, IA3). It costs up to six more
            forwards of the tuned model over the split.
        any_recipe: with the guard, use whichever rules and estimator do best, not the configured ones alone.
        decoded: where answers are free text, how many calibration examples to decode with the tuned model and with
            the strengths found without them. If exact match, ROUGE-L, repetition or length is surely worse, the
            guard falls back to the tuned model. 0 leaves the check out, and what each candidate costs unmeasured.
        show_table: print base, tuned, the sharpening control and what is used side by side. All candidates go to
            the log (level INFO), `run.log` of the command line, whatever this says.
        snapshot: folder for the base's hidden states on the split; states of another base or other data there are
            refused. Null for `snapshot` in the run folder, remade as needed.

    Raises:
        InputError: at the start of fit, for a calibration split that is missing or trained on, checkpoints that
            would be written before their epoch's calibration, a snapshot folder of another base or other data, or
            a disk without room for the checkpoints.
    """

    def __init__(
        self,
        *,
        estimator: StrengthEstimator = LineSearch(),  # noqa: B008  has no state
        choice: bool = True,
        guard: bool = True,
        folds: int = 4,
        alphas: Sequence[float] = PAPER_ALPHAS,
        others: bool = True,
        corrections: Corrections = True,
        scale: bool = False,
        any_recipe: bool = False,
        decoded: int = 32,
        show_table: bool = True,
        snapshot: str | None = None,
    ) -> None:
        check_options(folds, alphas, decoded, corrections)
        self.estimator, self.choice, self.guard, self.folds = estimator, choice, guard, folds
        self.alphas, self.others, self.decoded, self.show_table = tuple(alphas), others, decoded, show_table
        self.corrections, self.scale, self.any_recipe = corrections, scale, any_recipe
        self._snapshots, self._trained = SnapshotFolder(snapshot), TrainedCheckpoint()
        self._on_validate = False
        self._calibrated_step: int | None = None
        self._unsaved: tuple[CalibrationRecord, CalibrationTokens] | None = None

    @contextmanager
    def before_validation(self) -> Iterator[None]:
        """Make every validation within the context begin with a calibration and end with its checkpoint."""
        self._on_validate = True
        try:
            yield
        finally:
            self._on_validate = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Raise InputError, before weights are loaded, for what would waste or falsify the run."""
        if self._on_validate:
            check_validation(trainer)
            as_completion_data(trainer).all_choices("calibration")  # errors in them show before weights are loaded
        elif stage == "fit":
            check_checkpointing(trainer)
        if self._on_validate or stage == "fit":
            check_calibration_split(as_completion_data(trainer))
            check_estimator(self.estimator, as_steered(pl_module).configured)
        if stage == "test":
            check_test(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise InputError for an adapter that cannot be decoded, or too small a disk; open the snapshot."""
        self._calibrated_step = None  # the module may come from another run with as many steps
        with evaluating(as_steered(pl_module)):
            steer_model(as_steered(pl_module).peft_model, UNSTEERED["tuned"])
        self._snapshots.open(trainer, as_steered(pl_module))
        check_space(trainer, as_steered(pl_module), self._snapshots.tokens_to_come)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove `trained.ckpt`: the checkpoint of the epoch before is written."""
        self._trained.remove(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove `trained.ckpt`: all checkpoints are written."""
        self._trained.remove(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Log where a trained adapter is that no other checkpoint holds; a stopped fit has one of its own."""
        if isinstance(exception, Stopped):
            self._trained.remove(trainer)
        self._trained.name_after_failure()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Calibrate before the validation that ends an epoch, so that it can report the steered NLL."""
        last = trainer.state.fn is TrainerFn.FITTING and not trainer.sanity_checking and trainer.is_last_batch
        if last or self._on_validate:
            self._run(trainer, as_steered(pl_module))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the adapter with the strengths that `calibrate` found, and then their record."""
        if self._on_validate and (folder := run_folder(trainer)) is not None:
            trainer.save_checkpoint(folder / "checkpoints" / CALIBRATED, weights_only=True)
            self._save_record(trainer)  # a disk may be full: a record without its checkpoint would mislead

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Calibrate, unless a validation has just done so with the same weights."""
        self._run(trainer, as_steered(pl_module))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save and show every candidate on the test split, with the strengths from the calibration split."""
        module, folder = as_steered(pl_module), run_folder(trainer)  # every rank asks for the folder
        if (results := module.test_results) is None or not trainer.is_global_zero:
            return
        if folder is not None:
            step = module.calibration and module.calibration.get("global_step")
            save_test(folder, results, data=as_completion_data(trainer).digest("test"), global_step=step)
        show_test(results, printed=self.show_table)

    def _run(self, trainer: L.Trainer, module: SteeredLanguageModel) -> None:
        if self._calibrated_step == trainer.global_step and not self._on_validate:
            return
        data = as_completion_data(trainer)
        if self._on_validate:
            hint_at_more_data(data, module)
        else:
            self._trained.save(trainer)
        with evaluating(module):
            collected = self._collect(trainer, module, data)
            labels, tokens = collected.label_split(), collected.result(data.tasks("calibration"))
            corrections: list[FittedCorrection] = []
            if labels is not None:
                names = tried(self.corrections)
                corrections += fit_corrections(labels, folds=self.folds, choice=self.choice, names=names)
            if labels is not None and self.scale:
                shown = partial(tracked, trainer, doing="Scaling")
                corrections[:0] = fit_adapter_scale(
                    trainer, module, data, labels, folds=self.folds, choice=self.choice, progress=shown
                )
            record = self._decide(trainer, module, data, tokens, collected.questions(), corrections)
            fitted = {one.name: one.correction for one in corrections}
            if self.decoded:
                record = measure_cost(trainer, module, data, record, fitted)
        record["global_step"], record["epoch"] = trainer.global_step, trainer.current_epoch
        record["data"], record["arithmetic"] = data.digest("calibration"), module.arithmetic
        record["adapter"] = trained_sum(trainer, module.peft_model)
        module.adopt(record, fitted)
        self._calibrated_step = trainer.global_step
        self._unsaved = record, tokens
        if not self._on_validate:
            self._save_record(trainer)
        if trainer.is_global_zero:
            log_calibration(trainer, record, tokens, module.configured.directions, printed=self.show_table)
            show_calibration(record, printed=self.show_table)

    def _save_record(self, trainer: L.Trainer) -> None:
        """Write the last calibration's files. Every rank asks for the folder, the first one writes."""
        folder, unsaved, self._unsaved = run_folder(trainer), self._unsaved, None
        if folder is not None and unsaved is not None and trainer.is_global_zero:
            save_calibration(folder, *unsaved)

    def _decide(
        self,
        trainer: L.Trainer,
        module: SteeredLanguageModel,
        data: CompletionDataModule,
        tokens: CalibrationTokens,
        questions: QuestionTokens | None,
        corrections: Sequence[FittedCorrection],
    ) -> CalibrationRecord:
        """Return the record of a calibration whose outcome noise and decoding do not refuse."""
        noise, by_fold = measure_noise(trainer, module, data), {one.name: one.by_fold for one in corrections}
        fitted = {one.name: one.correction for one in corrections}

        def check(record: CalibrationRecord) -> CalibrationRecord:
            record = record if noise is None else add_noise(record, noise)
            steering = HeldOutSteering(module.configured, record, tokens.example, by_fold)
            shown = partial(tracked, trainer, doing="Decoding")
            return check_decoding(trainer, module, data, record, steering, count=self.decoded, progress=shown)

        return calibrate(
            tokens,
            module.configured,
            self.estimator,
            questions=questions,
            corrections=corrections,
            measure=lambda record: measure_drift(trainer, module, data, record, fitted),
            check=check,
            any_recipe=self.any_recipe,
            choice=self.choice,
            guard=self.guard,
            folds=self.folds,
            alphas=self.alphas,
            others=self.others,
        )

    def _collect(self, trainer: L.Trainer, module: SteeredLanguageModel, data: CompletionDataModule) -> Collector:
        """Return what has collected this process's share of the calibration split."""
        loader, precision = data.calibration_dataloader(), trainer.precision_plugin.val_step_context
        peft_model, snapshot = module.peft_model, self._snapshots.open(trainer, module)
        questions = data.all_choices("calibration")
        wanted = self.scale or tried(self.corrections)
        answers = [one.choices[one.best] for one in questions] or data.rows("calibration")
        collecting = collector(
            peft_model,
            module.configured,
            snapshot,
            alphas=self.alphas,
            around=precision,
            questions=questions,
            corrected=label_tokens([each.completion_ids for each in answers]) if wanted else None,
        )
        _log.info("calibrating on %s examples", len(loader.dataset))  # type: ignore[arg-type]
        with torch.no_grad(), precision():
            for batch in tracked(trainer, loader, doing="Calibrating"):
                check()
                on_device = trainer.strategy.batch_to_device(batch, module.device)
                run_step(trainer, module, "calibration_step", collecting.add, on_device)
        self._snapshots.keep()
        return collecting
