"""Lightning's Trainer with one more verb, calibrate, and with run folders that two runs never share."""

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus

from svd_lightning.callbacks import SteeringCalibration, StopBetweenBatches
from svd_lightning.callbacks.checks import as_steered
from svd_lightning.errors import DiskError, InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.runs import claim_folder
from svd_lightning.serving.offline import OfflineEngine, at_once, check_engine
from svd_lightning.signals import answering, deferring
from svd_lightning.strategies import CheckpointFiles


class _OtherSignals(_SignalConnector):
    """Leaves SIGTERM and SIGINT to `StopBetweenBatches`: Lightning ends with exit code 0, and saves nothing."""

    @staticmethod
    def _register_signal(signum: int, handlers: Any) -> None:
        if signum not in (signal.SIGTERM, signal.SIGINT):
            _SignalConnector._register_signal(signum, handlers)


class SteeringTrainer(L.Trainer):
    """A Trainer that can calibrate an adapter without training it, and that scores no adapter without training.

    Its runs claim their folders by creating them, and remove them if they fail before they leave anything of use.
    Its checkpoints are written beside their place and moved there. SIGTERM and Ctrl-C end its runs with `Stopped`;
    see `StopBetweenBatches`.
    """

    callbacks: list[L.Callback]
    _starting = False
    _claimed: Sequence[Sequence[Path]] = ()

    def calibrate(
        self,
        model: L.LightningModule,
        datamodule: L.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        verbose: bool = True,
    ) -> Mapping[str, float]:
        """Calibrate an adapter without training, then validate it with the strength found.

        Args:
            model: a SteeredLanguageModel whose adapter is an adapter folder, or comes with the checkpoint.
            datamodule: data with a calibration and a validation split.
            ckpt_path: a checkpoint to take the adapter from.
            weights_only: as in Lightning's other verbs, whose saved configurations name it.
            verbose: print the validation metrics.

        Returns:
            The validation metrics.

        Raises:
            InputError: if there is no SteeringCalibration callback.
        """
        callbacks = [callback for callback in self.callbacks if isinstance(callback, SteeringCalibration)]
        if not callbacks:
            raise InputError(
                "trainer.callbacks: calibrate needs a SteeringCalibration callback, got none; add one"
            )
        with callbacks[0].before_validation(), as_steered(model).keeping_steering():
            metrics = self.validate(
                model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only, verbose=verbose
            )
        return metrics[0] if metrics else {}

    def predict(
        self,
        model: L.LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: L.LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
        engine: Literal["transformers", "vllm"] = "transformers",
        engine_options: dict[str, Any] | None = None,
    ) -> Any:
        """Write the steered answers to prompts, as Lightning's own `predict`.

        Args:
            model: a SteeredLanguageModel.
            dataloaders: as in Lightning.
            datamodule: data with a predict split.
            return_predictions: as in Lightning.
            ckpt_path: a checkpoint to take adapter and steering from.
            weights_only: as in Lightning.
            engine: what decodes; vllm takes many prompts at a time, where it is installed.
            engine_options: arguments of vllm.LLM, {tensor_parallel_size: 2} for example.

        Raises:
            InputError: where vLLM is asked for and not installed, or beside several processes of this trainer.
        """
        given = dataloaders, datamodule, return_predictions, ckpt_path, weights_only
        if engine == "transformers":
            return super().predict(model, *given)
        check_engine(self.num_devices * self.num_nodes)
        module, seed = as_steered(model or self.lightning_module), int(os.environ.get("PL_GLOBAL_SEED", 0))
        with at_once(datamodule), OfflineEngine(module, engine_options or {}, seed=seed) as module.engine:
            try:
                return super().predict(module, *given)
            finally:
                module.engine = None

    @property
    def log_dir(self) -> str | None:
        """The run's folder; a run that starts claims it. Read it on every process: its name is broadcast."""
        if self._starting:
            self._starting = False
            self._claim()
        return super().log_dir

    def _run(
        self, model: L.LightningModule, ckpt_path: str | Path | None = None, weights_only: bool | None = None
    ) -> Any:
        """Run any verb; Lightning first asks for `log_dir` when the processes know each other.

        Raises:
            InputError: for an adapter that is neither trained, nor the user's, nor in a checkpoint, unless in fit.
        """
        self._starting, self._claimed = True, ()
        given = ckpt_path is not None or self.state.fn is TrainerFn.FITTING
        if not given and isinstance(model, SteeredLanguageModel) and model.needs_training:
            raise InputError(
                "ckpt_path: expected a trained adapter, got a new one and no checkpoint; write --ckpt_path "
                "RUN/checkpoints/last.ckpt, or --model.adapter FOLDER for an adapter that is trained"
            )
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = CheckpointFiles()
        if not any(isinstance(callback, StopBetweenBatches) for callback in self.callbacks):
            self.callbacks.insert(0, StopBetweenBatches())  # stops before a calibration begins
        self._signal_connector = _OtherSignals(self)
        with answering(), deferring(self.num_devices * self.num_nodes > 1):
            return super()._run(model, ckpt_path, weights_only)

    def _claim(self) -> None:
        """Claim a folder for every logger whose version is not given, or refuse on all processes."""
        problem: Exception | None = None
        if self.is_global_zero:
            try:
                self._claimed = list(filter(None, map(claim_folder, self.loggers)))
            except (DiskError, InputError) as error:
                problem = error
        if problem := self.strategy.broadcast(problem):
            raise problem

    def _teardown(self) -> None:
        """End a run; remove the folders of one that failed before its first batch of training or predictions."""
        try:
            super()._teardown()
        finally:
            batches = self.fit_loop.epoch_loop.batch_progress, self.predict_loop.batch_progress
            if self.state.status is TrainerStatus.INTERRUPTED and not any(each.total.ready for each in batches):
                for folder, *parents in self._claimed:
                    shutil.rmtree(folder, ignore_errors=True)
                    with suppress(OSError):  # another run has moved in
                        for parent in parents:
                            parent.rmdir()
