"""The LightningModule: warm start of a PEFT adapter, validation, and steered decoding."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from peft import PeftConfig
from torch import Tensor
from transformers import SchedulerType

from svd_lightning.adapted import AdaptedModule
from svd_lightning.calibration import NONE, recall_all
from svd_lightning.checkpoint import check_origin, check_resumable, check_steering, check_step, hyperparameters
from svd_lightning.data import Batch, CompletionDataModule, EncodedExample, answer_ends
from svd_lightning.decoding.decoder import Engine, Run, decoder
from svd_lightning.decoding.generation import check_room, generation_config, rows_of, say_sampling
from svd_lightning.heap import trim_heap
from svd_lightning.models.adapter import check_trainable
from svd_lightning.models.arithmetic import use_arithmetic
from svd_lightning.models.backbone import Backbone
from svd_lightning.models.digests import tokenizer_digest
from svd_lightning.records import CalibrationRecord, PredictionRecord, TestResults
from svd_lightning.schedule import Schedule
from svd_lightning.scoring import HeldOut, Likelihood, scalars
from svd_lightning.steering import (
    UNSTEERED,
    Correction,
    Steering,
    TaskSteering,
    VocabularyBound,
    as_tensors,
    from_tensors,
)
from svd_lightning.strategies import TokenMean, any_rank, check_strategy, is_sharded, leave_group_at_exit
from svd_lightning.strategies.random_state import random_states, restore_random_state

_log = logging.getLogger(__name__)


class SteeredLanguageModel(AdaptedModule):
    """A base model with a PEFT adapter, tuned briefly and then steered at decode time.

    The constructor reads the tokenizer and the configuration. The weights are loaded when a Trainer (or
    `configure_model`) asks for them, after the data have been checked.

    Args:
        backbone: the pre-trained base and its tokenizer.
        adapter: a PEFT configuration for a new adapter, or the folder (or hub name) of a trained one.
        steering: rules, mask and penalty; the calibration sets its strengths, unless they are given here.
        optimizer: builds the optimizer from the trainable parameters.
        lr_schedule: transformers' learning-rate schedule, stepped with every optimizer step.
        lr_schedule_args: the schedule's own arguments, {min_lr_rate: 0.1} for cosine_with_min_lr for example.
        warmup_ratio: share of the steps in which the learning rate rises from 0.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        generation: options of `transformers.GenerationConfig` for predict, in place of the base's.

    Raises:
        InputError: for a base or an adapter that cannot be found or does not match, or unknown options.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),  # noqa: B008  frozen
        adapter: PeftConfig | str | None = None,
        *,
        steering: Steering = Steering(),  # noqa: B008  frozen
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=5e-5),
        lr_schedule: SchedulerType = SchedulerType.LINEAR,
        lr_schedule_args: dict[str, Any] | None = None,
        warmup_ratio: float = 0.0,
        gradient_checkpointing: bool = False,
        generation: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, adapter, gradient_checkpointing=gradient_checkpointing)
        self.configured = self.steering = steering  # as given, and as in force once calibrated
        self.own_steering: dict[str, Steering] = {}  # of tasks with strengths of their own
        self.optimizer, self.schedule = optimizer, Schedule(lr_schedule, lr_schedule_args or {}, warmup_ratio)
        self._base_generation = self.backbone.load_generation()
        self.generation = generation_config(generation or {}, self._base_generation)
        self.tokenizer = self.backbone.load_tokenizer()
        self.ends = answer_ends(self.tokenizer, self.backbone.load_stops())
        if self.generation.eos_token_id is None:
            self.generation.eos_token_id = sorted(self.ends)
        for rule in steering.rules:
            if isinstance(rule, VocabularyBound):
                rule.check_vocabulary(self.tokenizer.get_vocab())
        self.calibration: CalibrationRecord | None = None
        self.corrections: dict[str, Correction] = {}  # all that the calibration fitted, by name
        self.likelihood = Likelihood()
        self.held_out: HeldOut | None = None
        self.test_results: TestResults | None = None
        self._predicted: Collection[int] = ()
        self._compare = self._keep_steering = False
        self.engine: Engine | None = None  # completes prompts in place of the model
        self.strict_loading = False  # checkpoints hold the adapter only; `check_weights` is the strict part
        own = steering, warmup_ratio, gradient_checkpointing, generation
        self.save_hyperparameters(hyperparameters(asdict(self.backbone), self.adapter_config, *own))

    def setup(self, stage: str) -> None:
        """Raise InputError, before weights are loaded, for options that cannot work together."""
        leave_group_at_exit()
        if stage == "fit":
            self.schedule.check(self.trainer)
            check_trainable(self.adapter_config)
        if stage == "predict" and (prompts := self._prompts()):
            check_room(self.generation, self._base_generation, prompts, self.context_length)
        check_strategy(self.trainer, self.backbone, self.adapter_config, masked=self.configured.alpha is not None)

    @property
    def recipe(self) -> Steering:
        """The old name of `configured`."""
        return self.configured

    @property
    def needs_training(self) -> bool:
        """Whether the adapter is new and the steering reads it; a vector of the vocabulary steers without any."""
        new = self.model is None and self.adapter_folder is None
        return new and not all(isinstance(rule, VocabularyBound) for rule in self.configured.rules)

    @property
    def task_steering(self) -> TaskSteering:
        """The steering in force, of every task."""
        return TaskSteering(self.steering, self.own_steering)

    def _data(self) -> CompletionDataModule | None:
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        return data if isinstance(data, CompletionDataModule) else None

    def _prompts(self) -> Sequence[EncodedExample]:
        return () if (data := self._data()) is None else data.rows("predict")

    # -- warm start ----------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Set training mode: transformers loads models in evaluation mode, and Lightning leaves them so."""
        self.peft_model.train()
        self._tokens = TokenMean()

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean NLL of the completion tokens under the tuned model, in nats, []."""
        return self.peft_model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, by the completion tokens of all processes; see `TokenMean`."""
        shown, weight = self._tokens.add(self.trainer, batch["labels"])
        loss = torch.where(weight > 0, self(batch), 0.0)  # the mean over no token is NaN
        self.log("train/loss", loss * shown, prog_bar=True, batch_size=len(batch["input_ids"]), sync_dist=True)
        return loss * weight

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make accumulated gradients those of the mean over all tokens of the step."""
        self._tokens.finish(self.trainer, self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of the trainable parameters, and the learning-rate schedule, by steps."""
        optimizer = self.optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        schedule = self.schedule.make(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step as Lightning does, which refuses transformers' `GreedyLR` unless this method is here."""
        super().lr_scheduler_step(scheduler, metric)

    # -- evaluation ----------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the batch's label log-probabilities under base, tuned and (once calibrated) steered."""
        self.likelihood.add(self.peft_model, batch, self.task_steering)

    def on_validation_epoch_end(self) -> None:
        """Log `val/nll_base`, `val/nll_tuned`, `val/nll_steered`."""
        nll = self.likelihood.result(self.task_steering)
        self.log_dict({f"val/{name}": value for name, value in nll.items()}, prog_bar=True, sync_dist=True)

    def on_test_start(self) -> None:
        """Start a new comparison, with the strengths in force."""
        self.check_in_use(self.calibration)
        self.held_out = HeldOut(
            self.configured, self.task_steering, self.calibration, self.device, corrections=self.corrections
        )

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score the batch, with all choices of its questions, under every distribution compared."""
        assert self.held_out is not None
        self.held_out.add(self.peft_model, batch)
        trim_heap()

    def on_test_epoch_end(self) -> None:
        """Keep the results; log `test/nll_tuned` and the like, with questions also `test/MC1_tuned` and so on."""
        assert self.held_out is not None
        tasks = {} if (data := self._data()) is None else data.tasks("test")
        self.test_results, self.held_out = self.held_out.results(tasks), None
        self.log_dict(
            {f"test/{name}": value for name, value in scalars(self.test_results).items()}, sync_dist=True
        )

    def calibration_step(self, collect: Callable[[Batch], None], batch: Batch) -> None:
        """Give a batch to a collector; this is a step, so that DDP and its like take part."""
        collect(batch)
        trim_heap()

    # -- decoding ------------------------------------------------------------------------------------------

    def start_predicting(self, done: Collection[int], compare: bool) -> None:
        """Skip the rows with these numbers; to compare, decode the others with base and tuned too."""
        self._predicted, self._compare = done, compare

    def on_predict_start(self) -> None:
        """Warn of strengths calibrated in other number formats or for other weights; say if the base samples."""
        self.check_in_use(self.calibration)
        say_sampling(self.generation, self._base_generation)

    def on_predict_epoch_start(self) -> None:
        """Choose the cache to decode with."""
        batches, sharded = sum(self.trainer.num_predict_batches), is_sharded(self.trainer)
        run = Run(self._prompts(), batches, alike=not self.own_steering, sharded=sharded)
        self._decoder = self.engine or decoder(
            self.peft_model, self.generation, self._base_generation, self.tokenizer, run
        )

    def predict_step(self, batch: Batch, batch_idx: int) -> list[PredictionRecord]:
        """Decode a batch of prompts: one record per row, with base and tuned completions on request."""
        rows = [row for row, index in enumerate(batch["index"].tolist()) if index not in self._predicted]
        if not (any_rank(self.trainer, bool(rows)) if is_sharded(self.trainer) else rows):
            return []
        batch = rows_of(batch, rows or [0])  # a process that is done decodes along with the others
        mine = UNSTEERED["tuned"] if self.task_steering.is_tuned else self.task_steering.of_batch(batch)
        steerings = {"completion": mine} | (UNSTEERED if self._compare else {})
        return self._decoder.complete(batch, steerings)[: len(rows)]

    # -- what a checkpoint holds ---------------------------------------------------------------------------

    def adopt(self, calibration: CalibrationRecord, corrections: Mapping[str, Correction] = NONE) -> None:
        """Use a calibration: its strengths steer from now on, or its correction, unless the user gave strengths.

        Args:
            calibration: what `calibrate` returned.
            corrections: those that were fitted with it, by name.

        Raises:
            InputError: if it was made for other rules or features, or another mask or penalty.
        """
        self.calibration, self.corrections = calibration.copy(), dict(corrections)
        if self.configured.calibrated:
            _log.info("steering.strengths are given: the calibrated ones are reported, not used")
            return
        check_steering(self.configured, calibration)
        steering = recall_all(self.configured, calibration, self.corrections)
        self.steering, self.own_steering = steering.shared, dict(steering.own)

    @contextmanager
    def keeping_steering(self) -> Iterator[None]:
        """Make checkpoints loaded within the context give their weights only, not their strengths."""
        self._keep_steering = True
        try:
            yield
        finally:
            self._keep_steering = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trainable weights, the calibration, what identifies the base, and random states."""
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in self.trained}
        checkpoint["calibration"] = self.calibration
        checkpoint["corrections"] = as_tensors(self.corrections)
        checkpoint["arithmetic"] = self.arithmetic
        checkpoint["random_states"] = random_states(self.trainer.strategy.root_device)
        checkpoint["base"] = self._origin()
        if (data := self._data()) is not None:
            checkpoint["datasets"] = sorted(data.dataset_names())

    def check_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Raise InputError if the checkpoint is of another base, adapter or task than this module's."""
        check_origin(checkpoint, self._origin(), self.hparams["adapter"], self.trained, self._data())

    def _origin(self) -> dict[str, str | None]:
        return {**self.base_origin, "tokenizer": tokenizer_digest(self.tokenizer)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another base, adapter or task; restore the calibration, and to train on, the random numbers.

        Raises:
            InputError: if the base, the adapter, the rules or the datasets differ from this module's.
        """
        self._load()
        self.check_checkpoint(checkpoint)
        if self._trainer is None and (arithmetic := checkpoint.get("arithmetic")) is not None:
            use_arithmetic(self.peft_model.get_base_model(), arithmetic)
        if self._trainer is not None and self._trainer.training:
            check_resumable(checkpoint)
            restore_random_state(checkpoint.get("random_states", ()), self.trainer.strategy.root_device)
        if (calibration := checkpoint.get("calibration")) is not None and not self._keep_steering:
            check_step(calibration, checkpoint["global_step"])
            self.adopt(calibration, from_tensors(checkpoint.get("corrections", {})))
