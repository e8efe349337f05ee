"""Lightning's Trainer with the verb `calibrate`."""

from collections.abc import Mapping

import lightning as L

from svd_lightning.callbacks import SteeringCalibration
from svd_lightning.callbacks.checks import as_steered
from svd_lightning.errors import InputError


class SteeringTrainer(L.Trainer):
    """A Trainer that can calibrate an adapter without training it."""

    callbacks: list[L.Callback]

    def calibrate(
        self,
        model: L.LightningModule,
        datamodule: L.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> Mapping[str, float]:
        """Calibrate an adapter without training, then validate it with the strength found.

        Args:
            model: a SteeredLanguageModel whose adapter is an adapter folder, or comes with the checkpoint.
            datamodule: data with a calibration and a validation split.
            ckpt_path: a checkpoint to take the adapter from.
            weights_only: as in Lightning's other verbs, whose saved configurations name it.

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
            metrics = self.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only)
        return metrics[0] if metrics else {}
